"""Which machines a cluster.yaml lets the autoscaler start."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from saltray.distributed import runtime
from saltray.distributed.cluster_file import machines
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


def test_the_largest_of_what_the_whole_cluster_may_have(tmp_path: Path) -> None:
    found = machines(write(tmp_path, FILE))
    assert [name for name, _ in found] == ["head", "four", "four", "one", "one"]
    assert found[0][1] == {"CPU": 0, "fold_driver": 100}
    assert found[-1][1] == {"CPU": 4, "GPU": 1}


def test_a_type_that_tells_no_resources(tmp_path: Path) -> None:
    types = FILE["available_node_types"] | {"other": {"resources": {}, "max_workers": 9}, "third": {}}
    path = write(tmp_path, FILE | {"available_node_types": types})
    with pytest.raises(ConfigError, match="no resources of other, third; write"):
        machines(path)
    assert machines(path, complete=False) == machines(write(tmp_path, FILE))


def test_a_type_without_a_limit_of_its_own_has_that_of_the_cluster(tmp_path: Path) -> None:
    types = {"head": {"resources": {"CPU": 0}}, "one": {"resources": {"GPU": 1}}}
    assert len(machines(write(tmp_path, FILE | {"available_node_types": types}))) == 1 + 4


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
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        machines(write(tmp_path, text))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        machines(tmp_path / "none.yaml")


def test_a_job_on_the_head_knows_what_may_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, FILE).rename(tmp_path / "ray_bootstrap_config.yaml")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert runtime.nodes_possible() == []
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert sum(node.get("GPU", 0) for node in runtime.nodes_possible()) == 10
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    assert runtime.nodes_possible() == []
