"""Exported files compute what the ensemble does, through runtimes of their own."""

import json
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from samples import ensemble_manifest
from torch import nn

from saltray.config import Config, ModelConfig, TrainConfig
from saltray.ensemble.export import METADATA, ExportedEnsemble, Format, export_ensemble, format_of, run_exported
from saltray.ensemble.load import Ensemble
from saltray.ensemble.manifest import EnsembleManifest, Member
from saltray.ensemble.postprocess import Postprocess
from saltray.errors import ConfigError, EnsembleError
from saltray.models.build import build_model

SMALL = ModelConfig(encoder_width=4, num_filters=4)


def small_ensemble(model: ModelConfig = SMALL, *, resize: int = 1, members: int = 1) -> Ensemble:
    """An ensemble of random members, whose predictions are on both sides of each rule of its post-processing."""
    torch.manual_seed(0)
    train = TrainConfig(input_size=64, resize=resize, precision="fp32")
    models = [build_model(model).eval() for _ in range(members)]
    manifest = ensemble_manifest(
        members=tuple(Member(fold=k, key=f"fold-{k}.safetensors", sha256="d" * 64, score=0.5) for k in range(members)),
        height=30,
        width=31,
        config=Config(data="d", model=model, train=train),
        provenance={"saltray": "0.1.0"},
    )
    plain = Ensemble(manifest, models, torch.device("cpu"))
    found = plain.predict(tiles(9))
    threshold = float(np.median(found))
    areas = (found > np.float32(threshold)).sum(axis=(1, 2))
    rules = Postprocess(threshold=threshold, min_area=int(np.median(areas)), blank_is_empty=True)
    return Ensemble(replace(manifest, postprocess=rules), models, torch.device("cpu"))


def tiles(count: int) -> NDArray[np.uint8]:
    """Random tiles; of two or more, the second is blank."""
    images = np.random.default_rng(count).integers(0, 256, (count, 30, 31), np.uint8)
    images[1:2] = 255
    return images


def exported(ensemble: Ensemble, path: Path, kind: Format, *, tta: bool = True) -> Path:
    module = ExportedEnsemble(ensemble.models, ensemble.manifest, tta=tta).eval()
    assert export_ensemble(module, ensemble.manifest, path, kind).difference < 1e-4
    return path


@dataclass(frozen=True)
class Files:
    """An ensemble in both formats, and all that was printed or warned of while they were written."""

    ensemble: Ensemble
    paths: dict[Format, Path]
    said: str


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder, ensemble, said = tmp_path_factory.mktemp("exported"), small_ensemble(members=2), StringIO()
    kinds: tuple[Format, ...] = ("onnx", "torch")
    with warnings.catch_warnings(record=True) as shown, redirect_stdout(said), redirect_stderr(said):
        warnings.simplefilter("always")
        paths = {kind: exported(ensemble, folder / kind, kind) for kind in kinds}
    return Files(ensemble, paths, said.getvalue() + "".join(str(warning.message) for warning in shown))


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_any_number_of_tiles_gives_what_the_ensemble_predicts(files: Files, kind: Format) -> None:
    ensemble = files.ensemble
    for count in (1, 2, 9):
        images = tiles(count)
        probabilities, masks = run_exported(files.paths[kind], kind, images)
        expected = ensemble.predict(images)
        assert np.abs(probabilities - expected).max() < 1e-4
        unclear = np.abs(expected - ensemble.manifest.postprocess.threshold) < 1e-4
        assert (masks != ensemble.predict_masks(images))[~unclear].sum() == 0
        assert not masks[1:2].any()  # it is blank
    assert 0 < masks.any(axis=(1, 2)).sum() < 9


def test_without_tta_and_with_enlarged_tiles(tmp_path: Path) -> None:
    ensemble = small_ensemble(resize=2)
    path = exported(ensemble, tmp_path / "file", "torch", tta=False)
    images = tiles(3)
    found = run_exported(path, "torch", images)[0]
    assert np.abs(found - ensemble.predict(images, tta=False)).max() < 1e-5
    assert np.abs(found - ensemble.predict(images, tta=True)).max() > 1e-4


@pytest.mark.parametrize(
    "model",
    [
        replace(SMALL, scse=True, hypercolumn=True, deep_supervision=True, decoder_batchnorm=True, in_channels=1),
        replace(SMALL, architecture="ternausnet"),
        replace(SMALL, architecture="unet"),
    ],
    ids=["all parts", "ternausnet", "unet"],
)
def test_every_network(tmp_path: Path, model: ModelConfig) -> None:
    exported(small_ensemble(model), tmp_path / "file", "onnx", tta=False)


def test_the_file_says_what_it_is(files: Files) -> None:
    import onnx

    model = onnx.load(files.paths["onnx"])
    facts = {entry.key: entry.value for entry in model.metadata_props}
    extra = {METADATA: ""}
    with files.paths["torch"].open("rb") as file:
        torch.export.load(file, extra_files=extra)
    assert json.loads(extra[METADATA]) == facts
    assert (facts["ensemble"], facts["flip_tta"], facts["saltray"]) == ("r1 v1", "true", "0.1.0")
    assert json.loads(facts["postprocess"])["min_area"] == files.ensemble.manifest.postprocess.min_area
    assert facts["input"] == "images: uint8 [tiles, 30, 31], grey, 0..255"
    (images,) = model.graph.input
    assert images.name == "images"
    assert [output.name for output in model.graph.output] == ["probabilities", "masks"]


def test_the_exporters_say_nothing(files: Files) -> None:
    assert files.said == ""


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    class Other(nn.Module):
        """Its output depends on whether it is being exported."""

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs + (1 if torch.compiler.is_exporting() else 0)

    manifest: EnsembleManifest = small_ensemble().manifest
    module = ExportedEnsemble([Other()], manifest, tta=False).eval()
    with pytest.raises(EnsembleError, match="differ by up to 0"):
        export_ensemble(module, manifest, tmp_path / "file", "torch")


def test_the_name_tells_the_format() -> None:
    assert (format_of("a/b.onnx"), format_of("s3://b/x.PT2")) == ("onnx", "torch")
    with pytest.raises(ConfigError, match=r"the format of model.pth; end its name in .onnx, or in .pt2"):
        format_of("model.pth")
