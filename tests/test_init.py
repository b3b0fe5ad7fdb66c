"""The public names, and the driver script of the README that uses them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import saltray
from saltray.storage.uri import open_store

README = Path(__file__).resolve().parents[1] / "README.md"
SMALLER = """
import dataclasses
import saltray

make, search = saltray.Config, saltray.SearchConfig


def smaller(**settings):
    config = make(**settings)
    train = dataclasses.replace(config.train, epochs=1, batch_size=4, precision="fp32")
    return dataclasses.replace(
        config,
        data="tiles",
        store="store",
        folds=saltray.FoldConfig(count=2),
        model=saltray.ModelConfig(num_filters=4, encoder_width=8),
        train=train,
    )


saltray.Config = smaller
saltray.SearchConfig = lambda **settings: search(**settings | {"trials": 2})
"""


def test_every_public_name_exists_and_is_no_module() -> None:
    assert len(saltray.__all__) > 40
    assert set(saltray.__all__) <= set(dir(saltray))
    for name in saltray.__all__:
        assert not isinstance(getattr(saltray, name), ModuleType), name


def test_another_name_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="parse_space"):
        _ = saltray.parse_space


@pytest.mark.ray
def test_the_driver_script_of_the_readme(tmp_path: Path) -> None:
    """As it is there, but for data, store, and sizes that suit a test."""
    (script,) = re.findall(r"```python\n((?:(?!```).)*saltray\.tune\(.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "script.py").write_text(SMALLER + script)
    saltray.synth(tmp_path / "tiles", tiles=8, seed=1, test_tiles=1)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    store = open_store(str(tmp_path / "store"))
    assert store.folders("searches") == ["s1"]
    assert store.folders("ensembles") == ["r1"]
