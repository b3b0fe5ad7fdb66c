"""A replica with the models of an ensemble: batches of tiles, and new versions while it predicts."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from ray import serve

from saltray.distributed.ray_internals import keep_replica_on_loopback
from saltray.distributed.served_masks import Masked, Refused, read_tile
from saltray.ensemble.load import Ensemble
from saltray.ensemble.manifest import EnsembleManifest
from saltray.errors import SaltrayError

log = logging.getLogger(__name__)

BATCH = 32
"""Tiles per forward pass, at most."""
BATCH_WAIT_S = 0.005
"""How long the first tile of a batch waits for others, while no other batch is computed."""


class Served(NamedTuple):
    """One version, loaded."""

    uri: str
    """Of the version."""
    ensemble: Ensemble

    @property
    def manifest(self) -> EnsembleManifest:
        """Of the version."""
        return self.ensemble.manifest

    @property
    def name(self) -> str:
        """Name and version, for people."""
        return f"{self.manifest.name} {self.manifest.version}"


class Models:
    """A replica: the models of one version, and of the next while it is loaded."""

    def __init__(self, device: str, *, tta: bool) -> None:
        keep_replica_on_loopback()
        self.device, self.tta = device, tta
        self.wanted = ""
        self.served: Served | None = None
        self._checked: Served | None = None
        self._loading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def reconfigure(self, config: dict[str, str]) -> None:
        """Serve another version: at first after it is loaded, later in a task of its own.

        Serve sends no requests to a replica until this returns, and ends the replica if it raises.
        """
        self.wanted = config["ensemble"]
        if self.served is None:
            await self._follow()
        else:
            self._task = asyncio.create_task(self._try_to_follow())

    async def check_health(self) -> None:
        """Serve calls it regularly. A version that could not be loaded, as the store failed, is retried."""
        if self.served is not None and self.served.uri != self.wanted and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._try_to_follow())

    async def check(self, uri: str) -> SaltrayError | None:
        """Load a version beside the one that is served; why it cannot be, if so."""
        try:
            async with self._loading:
                self._checked = await asyncio.to_thread(_load, uri, self.device)
        except SaltrayError as error:
            return error
        return None

    async def predict(self, data: bytes) -> Masked | Refused:
        """The mask of a tile, by the bytes of its file."""
        served = self.served
        assert served is not None
        pixels = read_tile(data, served.manifest)
        if isinstance(pixels, Refused):
            return pixels
        masked: Masked = await self._predict_batch((served, pixels))
        return masked

    async def describe(self) -> dict[str, Any]:
        """What is served."""
        assert self.served is not None
        manifest = self.served.manifest
        return {
            "ensemble": self.served.name,
            "uri": self.served.uri,
            "members": len(manifest.members),
            "height": manifest.height,
            "width": manifest.width,
            "pixel_range": None if manifest.pixel_range is None else str(manifest.pixel_range),
            "score": manifest.score_at_threshold,
        }

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _predict_batch(self, tiles: list[tuple[Served, NDArray[np.uint8]]]) -> list[Masked]:
        return await asyncio.to_thread(predict_tiles, tiles, tta=self.tta)

    async def _follow(self) -> None:
        async with self._loading:
            if self.served is not None and self.served.uri == self.wanted:
                return
            checked, self._checked = self._checked, None
            if checked is None or checked.uri != self.wanted:
                checked = await asyncio.to_thread(_load, self.wanted, self.device)
            self.served = checked

    async def _try_to_follow(self) -> None:
        try:
            await self._follow()
        except SaltrayError as error:
            log.warning("cannot serve %s yet: %s", self.wanted, error)


def _load(uri: str, device: str) -> Served:
    """Load a version, and predict a tile, which allocates what later ones need."""
    ensemble = Ensemble.load(uri, device=device)
    ensemble.predict(np.zeros((1, ensemble.manifest.height, ensemble.manifest.width), np.uint8))
    return Served(uri, ensemble)


def predict_tiles(tiles: Sequence[tuple[Served, NDArray[np.uint8]]], *, tta: bool) -> list[Masked]:
    """The masks of tiles, each by the version that was served when it arrived."""
    answers: dict[int, Masked] = {}
    for served in {id(served): served for served, _ in tiles}.values():
        places = [place for place, (by, _) in enumerate(tiles) if by is served]
        images = np.stack([tiles[place][1] for place in places])
        probabilities = served.ensemble.predict(images, tta=tta, batch_size=BATCH)
        salt = served.manifest.postprocess.apply(probabilities, images)
        for place, mask, probability in zip(places, salt, probabilities, strict=True):
            answers[place] = Masked(ensemble=served.name, salt=mask, mean_probability=float(probability.mean()))
    return [answers[place] for place in range(len(tiles))]
