"""How many folds a cluster holds: worked by hand."""

import pytest

from saltray.config import ClusterConfig
from saltray.distributed.admission import Demand, admit, demand_of, slots
from saltray.errors import ResourceError

LAPTOP = [{"CPU": 2.0}]
BOX = [{"CPU": 16.0, "GPU": 1.0}]
RACK = [{"CPU": 32.0, "GPU": 4.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 4.0}]


@pytest.mark.parametrize(
    ("demand", "nodes", "folds"),
    [
        (Demand(1, 1, 0), LAPTOP, 2),
        (Demand(2, 1, 0), LAPTOP, 1),
        (Demand(1, 0.4, 0), LAPTOP, 5),
        (Demand(1, 0.41, 0), LAPTOP, 4),
        (Demand(1, 1, 1), BOX, 1),
        (Demand(1, 1, 0.2), BOX, 5),
        (Demand(1, 1, 0.3), BOX, 3),
        (Demand(1, 4, 0.2), BOX, 4),
        (Demand(2, 1, 1), RACK, 4),
        (Demand(3, 1, 1), RACK, 2),
        (Demand(8, 1, 1), RACK, 1),
        (Demand(9, 1, 1), RACK, 0),
        # 0.6 of a GPU: one rank a GPU, whatever is left of it.
        (Demand(1, 1, 0.6), RACK, 8),
        (Demand(1, 0.1, 0), [], 0),
    ],
)
def test_slots(demand: Demand, nodes: list[dict[str, float]], folds: int) -> None:
    assert slots(demand, nodes) == folds


def test_open_settings_follow_from_the_cluster() -> None:
    five = ClusterConfig()
    assert demand_of(five, LAPTOP, LAPTOP, at_once=5) == Demand(1, 0.4, 0)
    assert demand_of(five, BOX, BOX, at_once=5) == Demand(1, 1, 1)
    # A head without GPUs that may start machines with some.
    assert demand_of(five, [{"CPU": 0.0}], [{"CPU": 64.0, "GPU": 8.0}], at_once=5) == Demand(1, 1, 1)
    pairs = ClusterConfig(workers_per_fold=2)
    assert slots(demand_of(pairs, LAPTOP, LAPTOP, at_once=5), LAPTOP) == 5


def test_a_cluster_that_grows_is_counted_at_its_largest() -> None:
    assert admit(Demand(2, 1, 1), 5, [{"CPU": 0.0}], [{"CPU": 64.0, "GPU": 8.0}]) == 4
    assert admit(Demand(1, 1, 1), 5, [{"CPU": 0.0}], [{"CPU": 64.0, "GPU": 8.0}]) == 5


def test_what_can_never_run_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"2 ranks of 1 GPU and 1 CPU.*at most 1 GPUs") as caught:
        admit(Demand(2, 1, 1), 5, BOX, BOX)
    assert "--workers-per-fold" in str(caught.value)
