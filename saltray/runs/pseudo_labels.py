"""Pseudo-labels: masks of test tiles by the models of an earlier ensemble, for a fold that trains on them, too.

No fold may learn from a tile that it holds out, not even by way of another model. So each fold's test tiles are
labelled by those models of the ensemble that have not seen its held-out tiles: its own, where tiles and split are the
same. A pixel is salt where their mean probability is above 0.5. The ensemble's own post-processing is not applied, as
it was chosen on the predictions of all folds; and masks, unlike probabilities, suit every loss.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from saltray.config import Config
from saltray.data.tiles import Tiles
from saltray.ensemble.layout import is_ensemble_uri
from saltray.ensemble.load import misfit, read_member
from saltray.ensemble.manifest import EnsembleManifest, Member, PseudoLabelsProvenance
from saltray.ensemble.versions import read_manifest, resolve
from saltray.errors import ConfigError, NotFoundError
from saltray.records import digest
from saltray.runs.initial_weights import members_by_fold
from saltray.runs.layout import PSEUDO_LABELS, fold_folder
from saltray.runs.records import PseudoLabelsRecord
from saltray.storage.base import Store

if TYPE_CHECKING:
    import torch
    from torch import nn

_SCHEMA = pa.schema([("id", pa.string()), ("confidence", pa.float32()), ("mask", pa.binary())])


@dataclass(frozen=True, eq=False)
class Teacher:
    """The models that label the test tiles of each fold. It has no weights: each rank reads those of its fold."""

    home: Store
    """The ensemble's version."""
    manifest: EnsembleManifest
    members: tuple[tuple[Member, ...], ...]
    """For each fold the models that label its test tiles, one or, of several snapshots, more."""

    def models(self, fold: int, device: "torch.device") -> "list[nn.Module]":
        """The models of one fold.

        Raises:
            EnsembleError: one does not fit the manifest.
            NotFoundError, IntegrityError: one is missing, or not the one that was published.
        """
        from saltray.models.build import build_model

        found: list[nn.Module] = []
        for member in self.members[fold]:
            model = build_model(self.manifest.config.model)
            try:
                model.load_state_dict(read_member(self.home, member))
            except RuntimeError as error:
                raise misfit(self.home, member, error) from error
            found.append(model.to(device))
        return found

    def provenance(self, images: str, tiles: int) -> PseudoLabelsProvenance:
        """What is recorded of the labels.

        Args:
            images: content digest of all test tiles.
            tiles: those that are trained on.
        """
        return PseudoLabelsProvenance(
            uri=self.home.uri,
            members=tuple(members[0].fold for members in self.members),
            sha256=tuple(digest([member.sha256 for member in members]) for members in self.members),
            images=images,
            tiles=tiles,
        )


def find_teacher(config: Config, before: PseudoLabelsProvenance | None = None) -> Teacher | None:
    """The ensemble that labels test tiles, where there is one; its models are checked, and not kept in memory.

    Args:
        config: the run.
        before: what an earlier command of the same run used, if it named the same `pseudo_labels.ensemble`; the same
            version is taken again, whatever was published since.

    Raises:
        ConfigError: the setting does not name an ensemble.
        EnsembleError: there is no such ensemble, or a model is no state dict.
        NotFoundError, IntegrityError: a model is missing, or not the one that was published.
        StorageError: the store refuses.
    """
    uri = config.pseudo_labels.ensemble
    if uri is None:
        return None
    if not is_ensemble_uri(uri):
        raise ConfigError(f"pseudo_labels.ensemble {uri} is no ensemble; name one as STORE/ensembles/NAME")
    home = resolve(uri if before is None else before.uri)
    manifest = read_manifest(home)
    members = members_by_fold(manifest, config.folds.count)
    for member in {member.key: member for each in members for member in each}.values():
        read_member(home, member)
    return Teacher(home, manifest, members)


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """The labels of test tiles, in the order of their ids."""

    ids: tuple[str, ...]
    confidence: NDArray[np.float32]
    """[N], mean distance of the pixels' probabilities from 0.5."""
    masks: tuple[bytes, ...]
    """Rows of bits in C order, filled up with zeros."""

    @classmethod
    def join(cls, parts: "Iterable[PseudoLabels]") -> Self:
        """The labels of all of these, whose tiles differ."""
        rows = sorted(row for part in parts for row in zip(part.ids, part.confidence.tolist(), part.masks, strict=True))
        ids, confidence, masks = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(tuple(ids), np.array(confidence, np.float32), tuple(masks))

    def most_confident(self, count: int) -> NDArray[np.int64]:
        """Ascending positions of so many; among equals those with the lower ids."""
        return np.sort(np.argsort(-self.confidence, kind="stable")[:count])

    def mask(self, at: int, height: int, width: int) -> NDArray[np.uint8]:
        """[height, width] of 0 and 1."""
        bits = np.unpackbits(np.frombuffer(self.masks[at], np.uint8), count=height * width)
        return bits.reshape(height, width)


def label(models: "list[nn.Module]", config: Config, tiles: Tiles, device: "torch.device") -> PseudoLabels:
    """Label tiles by the mean probability of these models, over each tile and its mirror image.

    Args:
        models: of one fold, on the device.
        config: that they were trained with.
        tiles: to label.
        device: where.

    Raises:
        ConfigError: the tiles are larger than the models' input.
    """
    import torch

    from saltray.training.inference import frozen, predict_probabilities

    settings = config.train
    mean = predict_probabilities(
        [frozen(model, settings.precision) for model in models],
        torch.from_numpy(tiles.images).to(device),
        input_size=settings.input_size,
        resize=settings.resize,
        precision=settings.precision,
    )
    confidence = (mean - 0.5).abs().mean(dim=(1, 2)).numpy()
    masks = np.packbits((mean > 0.5).numpy().reshape(len(tiles), -1), axis=1)
    return PseudoLabels(tiles.ids, confidence, tuple(row.tobytes() for row in masks))


def write_labels(home: Store, fold: int, labels: PseudoLabels, source: str) -> None:
    """Keep the labels of a fold, so that whoever resumes trains on the very same.

    Args:
        home: the part of the store of the fold or the trial.
        fold: that is to train on them.
        labels: of all test tiles.
        source: digest of what decided them.
    """
    table = pa.table(
        {"id": list(labels.ids), "confidence": labels.confidence, "mask": list(labels.masks)}, schema=_SCHEMA
    )
    sha256 = home.put_table(f"{_key(fold)}.parquet", table)
    record = PseudoLabelsRecord(digest=source, sha256=sha256, tiles=len(labels.ids))
    home.put_record(f"{_key(fold)}.json", record)


def has_labels(home: Store, fold: int, source: str) -> bool:
    """Whether labels of a fold are kept that were decided by what has this digest."""
    try:
        return home.get_record(f"{_key(fold)}.json", PseudoLabelsRecord).digest == source
    except NotFoundError:
        return False


def read_labels(home: Store, fold: int) -> PseudoLabels:
    """The labels that were kept for a fold.

    Raises:
        NotFoundError, IntegrityError: they are missing or damaged.
    """
    record = home.get_record(f"{_key(fold)}.json", PseudoLabelsRecord)
    table = home.get_table(f"{_key(fold)}.parquet", sha256=record.sha256, schema=_SCHEMA, rows=record.tiles)
    confidence = table["confidence"].to_numpy().astype(np.float32)
    return PseudoLabels(tuple(table["id"].to_pylist()), confidence, tuple(table["mask"].to_pylist()))


def _key(fold: int) -> str:
    return f"{PSEUDO_LABELS}/{fold_folder(fold)}"
