"""Which nodes a cluster.yaml lets Ray's autoscaler start."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from saltray.distributed.cluster_file import cluster_nodes
from saltray.errors import ConfigError

FILE: dict[str, Any] = {
    "max_workers": 4,
    "head_node_type": "head",
    "available_node_types": {
        "one": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 3},
        "head": {"resources": {"CPU": 0, "fold_driver": 100}, "max_workers": 0},
        "four": {"resources": {"CPU": 48, "GPU": 4, "accelerator_type:L4": 1}, "max_workers": 2},
    },
}


def write(folder: Path, record: Any) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(record if isinstance(record, str) else yaml.safe_dump(record))
    return path


def test_the_nodes_with_the_most_gpus_fill_the_cluster(tmp_path: Path) -> None:
    found = cluster_nodes(write(tmp_path, FILE))
    assert [name for name, _ in found] == ["head", "four", "four", "one", "one"]
    assert found[0][1] == {"CPU": 0, "fold_driver": 100}
    assert found[-1][1] == {"CPU": 4, "GPU": 1}


def test_among_equal_types_the_priority_decides(tmp_path: Path) -> None:
    gpu = {"resources": {"CPU": 4, "GPU": 1}}
    types = {"head": {"resources": {"CPU": 0}}, "spare": gpu | {"priority": 1}, "first": gpu | {"priority": 9}}
    found = cluster_nodes(write(tmp_path, FILE | {"available_node_types": types, "max_workers": 2}))
    assert [name for name, _ in found] == ["head", "first", "first"]


def test_a_type_without_resources(tmp_path: Path) -> None:
    types = FILE["available_node_types"] | {"other": {"resources": {}, "max_workers": 9}, "third": {}}
    path = write(tmp_path, FILE | {"available_node_types": types})
    with pytest.raises(ConfigError, match=r"cluster.yaml has no resources for other, third; list there what"):
        cluster_nodes(path)
    assert cluster_nodes(path, complete=False) == cluster_nodes(write(tmp_path, FILE))
    types |= {"two\nlines": {}, "x": {}, "y": {}}
    path = write(tmp_path, FILE | {"available_node_types": types})
    with pytest.raises(ConfigError, match=r'no resources for other, third, "two\\nlines" and 2 more; list'):
        cluster_nodes(path)


def test_a_type_without_a_limit_of_its_own_has_that_of_the_cluster(tmp_path: Path) -> None:
    types = {"head": {"resources": {"CPU": 0}}, "one": {"resources": {"GPU": 1}}}
    assert len(cluster_nodes(write(tmp_path, FILE | {"available_node_types": types}))) == 1 + 4


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: [", "not YAML"),
        ("[]", "describes no cluster"),
        ("a: 1", "available_node_types"),
        ("available_node_types: {}\nhead_node_type: head\nmax_workers: 1", "no node type head"),
        ("available_node_types: 7\nhead_node_type: a\nmax_workers: 1", "describes no cluster"),
    ],
)
def test_a_file_that_describes_no_cluster_is_refused(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        cluster_nodes(write(tmp_path, text))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; name a cluster.yaml"):
        cluster_nodes(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ConfigError, match="it is not text; name a cluster.yaml"):
        cluster_nodes(tmp_path / "binary.yaml")


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 64))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 64))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (BOMB, "more than 100,000 values"),
        (MERGES, "more than 100,000 values"),
        ("a: &a [*a]", "more than 100,000 values"),
        ("a: " + "[" * 10_000, "not YAML: maximum recursion"),
        ("#" * 2**20 + "\na: 1", "more than 1,048,576 bytes"),
        (yaml.safe_dump(FILE | {"max_workers": float("inf")}), "max_workers is Infinity"),
        (yaml.safe_dump(FILE | {"max_workers": -1}), "max_workers is -1"),
        (yaml.safe_dump(FILE | {"available_node_types": {"head": 7}}), "available_node_types.head is 7"),
        (yaml.safe_dump(FILE | {"head_node_type": "a\nb"}), "no node type"),
    ],
)
def test_a_file_beyond_all_limits_is_refused(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        cluster_nodes(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_aliases_are_read(tmp_path: Path) -> None:
    text = yaml.safe_dump(FILE).replace("GPU: 1", "GPU: &one 1") + "other: *one\n"
    assert cluster_nodes(write(tmp_path, text)) == cluster_nodes(write(tmp_path, FILE))


def test_a_cluster_has_no_more_nodes_than_there_can_be(tmp_path: Path) -> None:
    types = {"head": {"resources": {"CPU": 0}}, "one": {"resources": {"GPU": 1}}}
    assert len(cluster_nodes(write(tmp_path, FILE | {"available_node_types": types, "max_workers": 10**12}))) == 10_001
