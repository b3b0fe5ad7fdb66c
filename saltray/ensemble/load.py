"""A published ensemble: verified, described, loaded, averaged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from saltray.ensemble.card import model_card
from saltray.ensemble.manifest import EnsembleManifest, Member
from saltray.ensemble.versions import read_manifest, resolve
from saltray.errors import ConfigError, EnsembleError, IntegrityError, NotFoundError, ResourceError, one_line
from saltray.storage.base import Store

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class MemberCheck:
    """Whether one member of an ensemble is the one that was published."""

    key: str
    """Key relative to the version's folder."""
    fault: str | None
    """What is wrong with it; None if its digest is right."""


class Ensemble:
    """The models of one published version; their probabilities are averaged.

    Only `load` and `predict` need torch; it is imported there, so that the rest answers quickly.

    Attributes:
        manifest: what was published.
        models: one per member, in the manifest's order, with the weights as published; `predict` uses copies of them.
        device: where the models are.
    """

    def __init__(self, manifest: EnsembleManifest, models: "Sequence[nn.Module]", device: "torch.device") -> None:
        from saltray.training.inference import frozen

        self.manifest = manifest
        self.models = tuple(models)
        self.device = device
        # Made here, so that threads can share an ensemble.
        self._frozen = [frozen(model, manifest.config.train.precision) for model in self.models]

    @classmethod
    def load(cls, uri: str, *, device: "str | torch.device | None" = None) -> Self:
        """Load an ensemble; the SHA-256 of every member is checked before it is parsed.

        Args:
            uri: `<store>/ensembles/<name>`, or that with `/latest` or `/v3` at the end.
            device: where to put the models; by default the first GPU, or the CPU without one.

        Raises:
            EnsembleError: there is no such complete version, or a member does not fit its architecture.
            NotFoundError, IntegrityError: a member is missing, or not the one that was published.
            ConfigError, ResourceError: torch cannot use the device that is given, or that it has found.
        """
        import torch

        from saltray.models.build import build_model

        home = resolve(uri)
        manifest = read_manifest(home)
        target = _usable(device)
        models = []
        for member in manifest.members:
            weights = read_member(home, member)
            try:
                with torch.device("meta"):  # costs no memory, however wide the network of a damaged manifest is
                    build_model(manifest.config.model).load_state_dict(weights, assign=True)
                model = build_model(manifest.config.model)
                model.load_state_dict(weights)
            except (KeyError, RuntimeError, ValueError) as error:
                raise misfit(home, member, error) from error
            models.append(model.to(target).eval())
        return cls(manifest, models, target)

    @staticmethod
    def verify(uri: str) -> tuple[MemberCheck, ...]:
        """Check the SHA-256 of every member, without building a model.

        Args:
            uri: as for `load`.

        Raises:
            EnsembleError: there is no such complete version.
        """
        home = resolve(uri)
        checks = []
        for member in read_manifest(home).members:
            fault = None
            try:
                _read(home, member)
            except (NotFoundError, IntegrityError) as error:
                fault = str(error)
            checks.append(MemberCheck(member.key, fault))
        return tuple(checks)

    @staticmethod
    def card(uri: str) -> str:
        """The model card as Markdown: input, output, scores and provenance.

        Args:
            uri: as for `load`.

        Raises:
            EnsembleError: there is no such complete version.
        """
        return model_card(read_manifest(resolve(uri)))

    @property
    def threshold(self) -> float:
        """Probability above which a pixel is salt; `predict_masks` applies it, and the rest of the post-processing."""
        return self.manifest.postprocess.threshold

    def predict_masks(
        self, images: NDArray[np.uint8], *, tta: bool = True, batch_size: int | None = None
    ) -> NDArray[np.bool_]:
        """Where there is salt: `predict`, and the post-processing of the manifest, as `saltray predict` does it.

        Args:
            as for `predict`.

        Returns:
            [N, H, W], true where there is salt.

        Raises:
            EnsembleError: the images are of another type or shape.
        """
        return self.manifest.postprocess.apply(self.predict(images, tta=tta, batch_size=batch_size), images)

    def predict(
        self, images: NDArray[np.uint8], *, tta: bool = True, batch_size: int | None = None
    ) -> NDArray[np.float32]:
        """Mean probability of salt over the members, before any post-processing.

        Args:
            images: [N, H, W] grey tiles of 0..255, of any size up to the network's input. Values of 16-bit files are
                scaled by `manifest.pixel_range.scale`, as `read_tiles(uri, part="test", scale=...)` does it.
            tta: average over the tile and its mirror image (left to right).
            batch_size: images per forward pass, mirror images included; by default what suits the device.

        Returns:
            [N, H, W] probabilities, 0..1.

        Raises:
            EnsembleError: the images are of another type or shape.
        """
        import torch

        from saltray.training.inference import predict_probabilities

        if images.ndim != 3 or images.dtype != np.uint8:
            raise EnsembleError(
                f"images are {images.dtype} of shape {images.shape}; give 8-bit grey tiles as an array [N, H, W]"
            )
        settings = self.manifest.config.train
        tensor = torch.from_numpy(np.ascontiguousarray(images))
        probabilities = predict_probabilities(
            self._frozen,
            tensor,
            input_size=settings.input_size,
            resize=settings.resize,
            batch_size=batch_size,
            precision=settings.precision,
            tta=tta,
        )
        return probabilities.numpy()


def read_member(home: Store, member: Member) -> "dict[str, torch.Tensor]":
    """The state dict of one member; its SHA-256 is checked before it is parsed.

    Args:
        home: the version's part of the store, as `resolve` finds it.
        member: of the version's manifest.

    Raises:
        EnsembleError: it is no state dict of finite numbers.
        IntegrityError: it is not the one that was published.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = _read(home, member)
    try:
        weights = load(data)
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise ValueError("some weights are NaN or infinite")
    except (KeyError, SafetensorError, ValueError) as error:
        raise misfit(home, member, error) from error
    return weights


def _read(home: Store, member: Member) -> bytes:
    try:
        return home.get(member.key, sha256=member.sha256)
    except NotFoundError as error:
        raise NotFoundError(f"{home.uri}/{member.key} is missing; restore it, or use another version") from error


def _usable(device: "str | torch.device | None") -> "torch.device":
    """The device that was asked for, or the first GPU or the CPU."""
    import torch

    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # torch built without that kind of device asserts
        fault = f"device {name} cannot be used here ({one_line(error, 200)})"
        if device is None:
            raise ResourceError(f"{fault}; free the GPU, or set CUDA_VISIBLE_DEVICES to nothing") from error
        raise ConfigError(f"{fault}; use another one, such as cpu") from error
    return found


def misfit(home: Store, member: Member, error: Exception) -> EnsembleError:
    """What to raise where the weights of a member are not those of its network."""
    reason = one_line(error, 300)  # torch writes a line per tensor
    return EnsembleError(f"{home.uri}/{member.key} does not fit its architecture: {reason}; use another version")
