"""`saltray.synth`: its arguments reach the generator."""

import inspect
from pathlib import Path

import pytest

import saltray
from saltray.data.synthetic import write_dataset
from saltray.errors import ConfigError, DataError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


def test_a_data_set_is_written(tmp_path: Path) -> None:
    folder = saltray.synth(str(tmp_path / "tiles"), tiles=5, seed=3, test_tiles=1, noise=0.5)
    assert folder == tmp_path / "tiles"
    assert len(list((folder / "train/images").iterdir())) == 5
    same = write_dataset(tmp_path / "same", tiles=5, seed=3, test_tiles=1, noise=0.5)
    assert contents(folder) == contents(same)
    for other in ({"seed": 4, "noise": 0.5}, {"seed": 3, "noise": 1.0}):
        another = saltray.synth(tmp_path / str(other["noise"]), tiles=5, test_tiles=1, **other)  # type: ignore[arg-type]
        assert contents(another) != contents(folder)


def test_its_defaults_are_those_of_the_generator() -> None:
    mine, below = (inspect.signature(function).parameters for function in (saltray.synth, write_dataset))
    assert {name: mine[name].default for name in mine} == {name: below[name].default for name in below}


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tiles"):
        saltray.synth(tmp_path / "tiles", tiles=0)
    assert not (tmp_path / "tiles").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is not an empty folder"):
        saltray.synth(tmp_path, tiles=2)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
