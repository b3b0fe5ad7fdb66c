"""`saltray.export`: of a published version, to a file or S3; what it refuses."""

import sys
from pathlib import Path

import numpy as np
import pytest
from ray_session import Recorded

import saltray
from saltray.ensemble.export import run_exported
from saltray.errors import ConfigError, EnsembleError


@pytest.mark.ray
def test_a_trained_ensemble(finished: Recorded[saltray.TrainResult], tmp_path: Path) -> None:
    uri, out = finished.result.ensemble, tmp_path / "salt.pt2"
    done = saltray.export(uri, out)
    assert (done.format, done.out, done.bytes) == ("torch", str(out), out.stat().st_size)
    assert done.members == 2
    ensemble = saltray.Ensemble.load(uri, device="cpu")
    shape = (3, ensemble.manifest.height, ensemble.manifest.width)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.abs(run_exported(out, "torch", images)[0] - ensemble.predict(images)).max() < 0.02  # of bfloat16


def test_refusals_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="end its name in .onnx"):
        saltray.export("store/ensembles/r1", tmp_path / "salt.bin")
    with pytest.raises(EnsembleError, match="r1"):
        saltray.export(str(tmp_path / "ensembles" / "r1"), tmp_path / "salt.pt2")
    monkeypatch.setattr(sys, "path", [])
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ConfigError, match=r"needs the package onnx; pip install 'saltray\[export\]'"):
        saltray.export("store/ensembles/r1", tmp_path / "salt.onnx")
    assert not list(tmp_path.glob("salt*"))
    assert not list(tmp_path.glob(".*"))
