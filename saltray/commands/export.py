"""`saltray export`: an ensemble as one file for other programs."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saltray.ensemble.load import Ensemble
from saltray.storage.outputs import output_file

if TYPE_CHECKING:
    from saltray.ensemble.export import Format


@dataclass(frozen=True)
class Exported:
    """What `export` wrote."""

    ensemble: str
    """Name and version."""
    out: str
    """Path or URI, as given."""
    format: "Format"
    bytes: int
    members: int
    difference: float
    """Largest difference of a probability from the same models in PyTorch, in float32, on random tiles."""


def export(ensemble: str, out: str | os.PathLike[str] = "ensemble.onnx", *, tta: bool = True) -> Exported:
    """Write an ensemble as one file: grey tiles in, probabilities and masks out, any number at a time.

    Enlarging, padding, all members, their mean, test-time augmentation and post-processing are inside, in float32.
    The file does not need saltray. Values of 16-bit images have to be scaled before; its metadata say how.

    Args:
        ensemble: `<store>/ensembles/<name>[/latest|/v3]`.
        out: path or s3://bucket/key; .onnx for ONNX, .pt2 for torch.export.
        tta: average over each tile and its mirror image.

    Raises:
        ConfigError: the name has another suffix, or the packages of ONNX are not installed.
        EnsembleError: there is no such version, or the file computes something else.
        StorageError: it cannot be written.
    """
    from saltray.ensemble.export import ExportedEnsemble, check_installed, export_ensemble, format_of

    name = os.fspath(out)
    kind = format_of(name)
    check_installed(kind)
    with output_file(name) as draft:  # first of all, what cannot be written is refused
        loaded = Ensemble.load(ensemble, device="cpu")
        manifest = loaded.manifest
        module = ExportedEnsemble(loaded.models, manifest, tta=tta).eval()
        with draft.writing() as path:
            check = export_ensemble(module, manifest, path, kind)
            size = path.stat().st_size
    version = f"{manifest.name} {manifest.version}"
    return Exported(version, name, kind, size, len(loaded.models), check.difference)
