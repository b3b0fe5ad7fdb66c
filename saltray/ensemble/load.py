"""A published ensemble in memory."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from saltray.config import Config, from_dict
from saltray.ensemble.manifest import EnsembleManifest
from saltray.ensemble.versions import resolve
from saltray.errors import EnsembleError
from saltray.models.build import build_model
from saltray.training.inference import predict_probabilities


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the first GPU, or the CPU where there is none."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


class Ensemble:
    """The fold models of one published version; their probabilities are averaged.

    Attributes:
        manifest: what was published.
        models: one a fold, in the manifest's order.
        device: where the models are.
    """

    def __init__(self, manifest: EnsembleManifest, models: Sequence[nn.Module], device: torch.device) -> None:
        self.manifest = manifest
        self.device = device
        self.models = list(models)
        self._train = _config(manifest).train

    @classmethod
    def load(cls, uri: str, *, device: str | torch.device | None = None) -> Self:
        """Load `<store>/ensembles/<name>[/latest|/v3]`; every member's SHA-256 is checked before it is parsed.

        Raises:
            EnsembleError: no such complete version, or members that do not fit their architecture.
            IntegrityError: a member is not the one that was published.
        """
        store = resolve(uri)
        manifest = EnsembleManifest.from_json(store.get_json("manifest.json"))
        target = choose_device(device)
        models = []
        for member in manifest.members:
            model = build_model(_config(manifest).model)
            try:
                model.load_state_dict(load(store.get(member.key, sha256=member.sha256)))
            except (RuntimeError, SafetensorError) as error:
                reason = " ".join(str(error).split())[:300]  # a line a tensor
                raise EnsembleError(
                    f"{store.uri}/{member.key} does not fit its architecture: {reason}; use another version"
                ) from error
            models.append(model.to(target).eval())
        return cls(manifest, models, target)

    @property
    def threshold(self) -> float:
        """Probability above which a pixel is salt."""
        return self.manifest.threshold

    def predict(self, images: NDArray[np.uint8], *, tta: bool = True, batch_size: int = 64) -> NDArray[np.float32]:
        """Mean probability of salt over the folds.

        Args:
            images: [N, H, W] grey tiles, of any size up to the network's input.
            tta: average over the tile and its mirror image (left to right).
            batch_size: tiles a forward pass.

        Returns:
            [N, H, W] probabilities, 0..1.
        """
        if images.ndim != 3 or images.dtype != np.uint8:
            raise EnsembleError(
                f"images are {images.dtype} of shape {images.shape}; give 8-bit grey tiles as an array [N, H, W]"
            )
        tensor = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        total = torch.zeros(images.shape, dtype=torch.float32)
        for model in self.models:
            total += predict_probabilities(
                model,
                tensor,
                input_size=self._train.input_size,
                batch_size=batch_size,
                precision=self._train.precision,
                tta=tta,
            )
        return (total / len(self.models)).numpy()


def _config(manifest: EnsembleManifest) -> Config:
    return from_dict(manifest.config)
