"""The driver script of the README."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import saltray
from saltray.config import Config, SearchConfig
from saltray.storage.uri import open_store

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.mark.ray
def test_the_driver_script(
    ray_here: None,
    small: Callable[..., Config],
    tiles_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As it is there, but for data, store, and sizes that suit a test."""
    (script,) = re.findall(r"```python\n((?:(?!```).)*saltray\.tune\(.*?)```", README.read_text(), re.DOTALL)

    def smaller(**settings: Any) -> Config:
        own, test = Config(**settings), small(tiles_folder, tmp_path / "store")
        changed = {name: getattr(test, name) for name in ("data", "store", "folds", "model", "train", "cluster")}
        return replace(own, **changed)

    def shorter(**settings: Any) -> SearchConfig:
        return SearchConfig(**settings | {"trials": 2, "epochs": 2})

    monkeypatch.setattr(saltray, "Config", smaller, raising=False)
    monkeypatch.setattr(saltray, "SearchConfig", shorter, raising=False)
    names: dict[str, Any] = {"images": saltray.read_tiles(str(tiles_folder)).images[:3]}
    exec(compile(script, "README.md", "exec"), names)
    assert names["masks"].shape == names["images"].shape
    store = open_store(str(tmp_path / "store"))
    assert store.folders("searches") == ["s1"]
    assert store.folders("ensembles") == ["r1"]
    assert f"published {store.uri}/ensembles/r1/v1" in capsys.readouterr().out
