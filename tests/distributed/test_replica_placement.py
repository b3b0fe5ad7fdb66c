"""What each replica of a service gets of a cluster, as it is and as it can be."""

import pytest

from saltray.distributed import replica_placement
from saltray.distributed.capacity import Node
from saltray.distributed.replica_placement import place_replicas
from saltray.errors import ConfigError


@pytest.mark.parametrize(
    ("present", "possible", "count", "placed"),
    [
        ([{"CPU": 8.0}], [], 1, ("CPU", 8)),
        ([{"CPU": 8.0}], [], 3, ("CPU", 2)),
        ([{"CPU": 8.0}, {"CPU": 3.0}], [], 4, ("CPU", 2)),
        ([{"CPU": 8.0, "GPU": 4.0}], [], 4, ("GPU", 1)),
        ([{"CPU": 2.0}], [{"CPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}], 1, ("GPU", 1)),  # that can start nodes with GPUs
    ],
)
def test_a_gpu_for_each_replica_or_its_share_of_the_cpus(
    present: list[Node], possible: list[Node], count: int, placed: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_placement, "nodes_present", lambda: present)
    monkeypatch.setattr(replica_placement, "nodes_possible", lambda: possible)
    assert place_replicas(count) == placed


@pytest.mark.parametrize(
    ("node", "named"), [({"CPU": 8.0, "GPU": 2.0}, "3 replicas need a GPU each"), ({"CPU": 2.0}, "a CPU each")]
)
def test_more_replicas_than_the_cluster_holds_are_refused(
    node: Node, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_placement, "nodes_present", lambda: [node])
    monkeypatch.setattr(replica_placement, "nodes_possible", list)
    with pytest.raises(ConfigError, match=f"{named}, but the cluster has at most 2; lower --replicas or"):
        place_replicas(3)
