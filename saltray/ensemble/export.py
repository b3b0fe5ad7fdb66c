"""An ensemble as one self-contained file, ONNX or torch.export: tiles in, probabilities and masks out."""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saltray.ensemble.manifest import EnsembleManifest
from saltray.errors import ConfigError, EnsembleError
from saltray.records import to_record
from saltray.training.inference import tile_logits

Format = Literal["onnx", "torch"]
SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".pt2": "torch"}
TOLERANCE = 1e-3
"""Largest difference of a probability from that of the same models in PyTorch, in float32."""
METADATA = "saltray.json"
"""Name of the extra file in a torch.export archive; in ONNX, the same record is in the metadata, value by value."""


class ExportedEnsemble(nn.Module):
    """Everything between a grey tile and its mask: enlarging, padding, the members, averaging, post-processing.

    Args:
        models: the members.
        manifest: of the version; input size, resize factor and post-processing.
        tta: average over the tile and its mirror image.
    """

    def __init__(self, models: Sequence[nn.Module], manifest: EnsembleManifest, *, tta: bool) -> None:
        super().__init__()
        self.models = nn.ModuleList(models).requires_grad_(False)
        self.settings = manifest.config.train
        self.postprocess = manifest.postprocess
        self.tta = tta

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities, float32 [N, H, W], and masks, bool [N, H, W], of tiles, uint8 [N, H, W]."""
        probabilities = self._mean(images)
        if self.tta:
            probabilities = (probabilities + self._mean(images.flip(-1)).flip(-1)) / 2
        salt = probabilities > self.postprocess.threshold
        keep = salt.sum(dim=(1, 2)) >= self.postprocess.min_area
        if self.postprocess.blank_is_empty:
            pixels = images.flatten(1).float()  # some runtimes have no minimum of bytes
            keep = keep & (pixels.amin(dim=1) < pixels.amax(dim=1))
        return probabilities, salt & keep[:, None, None]

    def _mean(self, images: Tensor) -> Tensor:
        """Mean probability over the members, always in float32: not every runtime has bfloat16."""
        size, factor = self.settings.input_size, self.settings.resize
        members = [tile_logits(model, images, size, "fp32", factor).sigmoid() for model in self.models]
        return torch.stack(members).mean(dim=0)


@dataclass(frozen=True)
class ExportCheck:
    """How an exported file compares with the models in PyTorch, on random tiles."""

    difference: float
    """Largest difference of a probability."""


def format_of(out: str) -> Format:
    """The format that a file's name asks for.

    Raises:
        ConfigError: its suffix is of no format.
    """
    suffix = Path(out).suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"cannot tell the format of {out}; end its name in .onnx, or in .pt2 for torch.export")
    return SUFFIXES[suffix]


def check_installed(kind: Format) -> None:
    """Refuse a format whose packages are absent.

    Raises:
        ConfigError: they are.
    """
    if kind == "onnx":
        missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
        if missing:
            raise ConfigError(f"ONNX needs the package {missing[0]}; pip install 'saltray[export]'")


def export_ensemble(module: ExportedEnsemble, manifest: EnsembleManifest, path: Path, kind: Format) -> ExportCheck:
    """Write the module to a file, and compare the file's output with the module's.

    Args:
        module: on the CPU, in eval mode.
        manifest: of the version, which the file's metadata are from.
        path: the file to write.
        kind: its format.

    Raises:
        EnsembleError: the file's probabilities differ by more than `TOLERANCE`.
        OSError: it cannot be written.
    """
    images = np.random.default_rng(0).integers(0, 256, (3, manifest.height, manifest.width), np.uint8)
    images[2] = 0  # a blank tile
    example = torch.from_numpy(images)
    shapes = {"images": {0: torch.export.Dim("tiles", min=1)}}
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        program = torch.export.export(module, (example,), dynamic_shapes=shapes)
        write = _write_onnx if kind == "onnx" else _write_torch
        write(program, metadata(module, manifest), path)
        expected = module(example[1:])[0].numpy()
        found = run_exported(path, kind, images[1:])[0]
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:
        raise EnsembleError(
            f"the {kind} file's probabilities differ by up to {difference:.2g} from PyTorch's; please report this, "
            "with the versions of torch and onnxruntime"
        )
    return ExportCheck(difference)


def metadata(module: ExportedEnsemble, manifest: EnsembleManifest) -> dict[str, str]:
    """What the file says about itself: name -> text, JSON where it is a record."""
    shape = f"[tiles, {manifest.height}, {manifest.width}]"
    scale = manifest.pixel_range
    return {
        "ensemble": f"{manifest.name} {manifest.version}",
        "input": f"images: uint8 {shape}, grey, 0..255",
        "output": f"probabilities: float32 {shape}, 0..1; masks: bool {shape}, true where there is salt",
        "members": str(len(manifest.members)),
        "flip_tta": str(module.tta).lower(),
        "postprocess": json.dumps(to_record(manifest.postprocess)),
        "pixel_range": json.dumps(None if scale is None else to_record(scale)),
        "score": f"{manifest.score:.4f}",
        "run": manifest.run,
        "saltray": manifest.provenance.get("saltray") or "unknown",
        "torch": torch.__version__,
    }


def run_exported(path: Path, kind: Format, images: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The probabilities and masks of a file that `export_ensemble` wrote."""
    if kind == "torch":
        with path.open("rb") as file:
            probabilities, masks = torch.export.load(file).module()(torch.from_numpy(images))
        return probabilities.numpy(), masks.numpy()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    probabilities, masks = session.run(["probabilities", "masks"], {"images": images})
    return probabilities, masks


def _write_torch(program: torch.export.ExportedProgram, facts: dict[str, str], path: Path) -> None:
    with path.open("wb") as file:  # by its path, it would have to end in .pt2
        torch.export.save(program, file, extra_files={METADATA: json.dumps(facts, indent=1)})


def _write_onnx(program: torch.export.ExportedProgram, facts: dict[str, str], path: Path) -> None:
    outputs = ["probabilities", "masks"]
    onnx = torch.onnx.export(program, input_names=["images"], output_names=outputs, verbose=False)
    assert onnx is not None
    onnx.model.doc_string = f"saltray ensemble {facts['ensemble']}"
    onnx.model.metadata_props.update(facts)
    onnx.save(path, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on its own progress."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
