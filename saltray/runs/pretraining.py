"""A pretraining in the store: created once, the same for everyone who works on it, and its weights at the end."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from saltray.config import Config, PretrainConfig
from saltray.data.all_images import AllImages
from saltray.ensemble.manifest import provenance
from saltray.errors import ConfigError, NotFoundError
from saltray.records import digest
from saltray.runs.history import EpochRecord
from saltray.runs.layout import CHECKPOINTS, MANIFEST, RESULT, WEIGHTS, checkpoint_epoch
from saltray.runs.manifests import changed_unseen, manifest_of
from saltray.runs.records import PretrainManifest, PretrainRecord
from saltray.runs.run import changed_settings, has_epochs
from saltray.storage.base import Store
from saltray.storage.lock import FOLDER as LOCK

if TYPE_CHECKING:
    from torch import nn

    from saltray.runs.initial_weights import InitialWeights

SECTIONS = ("model", "optim", "augment", "train")
"""The sections of the configuration that decide the result."""


def create_pretraining(
    home: Store, config: Config, settings: PretrainConfig, images: AllImages, initial: "InitialWeights | None"
) -> None:
    """Write what the pretraining is; every later command must agree with it, once an epoch was trained.

    Only `train.epochs` may grow then, where the schedule does not depend on it: the result goes, the checkpoints stay.

    Args:
        home: the pretraining's part of the store; the caller holds its lock.
        config: the network and how it is trained.
        settings: the pretraining's own.
        images: all of them.
        initial: the weights before training, where some were given.

    Raises:
        ConfigError: a pretraining of this name has trained with other settings or other images, or cannot be longer.
    """
    manifest = PretrainManifest(
        name=settings.name,
        identity=_identity(config, settings, images, initial),
        config=config,
        pretrain=settings,
        dataset=images.digest,
        tiles=len(images.tiles),
        initial_weights=None if initial is None else initial.provenance,
        provenance=provenance(),
    )
    if home.put_new_record(MANIFEST, manifest):
        return
    before = manifest_of(home, PretrainManifest)
    if before.name != settings.name:
        raise ConfigError(
            f"pretraining {settings.name} and pretraining {before.name} are the same folder on this file system, which "
            "does not tell capitals from small letters; choose another --pretrain.name"
        )
    if before.identity == manifest.identity:
        return
    if home.exists(RESULT) or has_epochs(home):
        as_before = replace(config, train=replace(config.train, epochs=before.config.train.epochs))
        if before.identity == _identity(as_before, settings, images, initial):
            _extend(home, before, manifest)
            return
        changed = ["images"] if before.dataset != images.digest else []
        own, now = before.pretrain.identity, settings.identity
        changed += [f"pretrain.{name} ({own[name]})" for name in own if own[name] != now[name]]
        changed += [name for name in changed_settings(before.config, config) if name.startswith(SECTIONS)]
        raise ConfigError(
            f"pretraining {settings.name} was started with other "
            f"{', '.join(changed) or changed_unseen(before.provenance)}; use those again to finish it, or choose "
            "another --pretrain.name"
        )
    # Begun, and never trained an epoch. The manifest comes last: an interrupted replacement is one still.
    for entry in list(home.list()):
        if entry.key != MANIFEST and not entry.key.startswith(f"{LOCK}/"):
            home.delete(entry.key)
    home.put_record(MANIFEST, manifest)


def _identity(config: Config, settings: PretrainConfig, images: AllImages, initial: "InitialWeights | None") -> str:
    """SHA-256, in hex, of all that decides the weights."""
    return digest(
        {
            "config": {section: config.identity[section] for section in SECTIONS},
            "pretrain": settings.identity,
            "dataset": images.digest,
            "initial": None if initial is None else initial.digest,
        }
    )


def _extend(home: Store, before: PretrainManifest, now: PretrainManifest) -> None:
    """Give a pretraining more epochs, for which it resumes from its last checkpoint. Nothing else differs.

    Raises:
        ConfigError: they cannot be added.
    """
    name, epochs, wanted = now.name, before.config.train.epochs, now.config.train.epochs
    if wanted < epochs:
        raise ConfigError(
            f"pretraining {name} has train.epochs {epochs}, and {wanted} would be fewer; use {epochs} or more, or "
            "choose another --pretrain.name"
        )
    if not before.config.can_be_extended:
        raise ConfigError(
            f"pretraining {name} cannot be trained to train.epochs {wanted}: its learning rate falls to zero at epoch "
            f"{epochs} (optim.schedule {before.config.optim.schedule}); choose another --pretrain.name, and start from "
            f"its weights with --model.weights {home.uri}/{WEIGHTS}"
        )
    if home.exists(RESULT):
        if not any(checkpoint_epoch(entry.key) for entry in home.list(CHECKPOINTS)):
            raise ConfigError(
                f"pretraining {name} left no checkpoint to resume from after its {epochs} epochs; choose another "
                "--pretrain.name"
            )
        home.delete(RESULT)  # before the manifest: whoever resumes in between finishes it as it was
    home.put_record(MANIFEST, now)


def pretraining_result(home: Store) -> PretrainRecord | None:
    """The result of a pretraining; None where it is not finished, or its weights are gone."""
    try:
        result = home.get_record(RESULT, PretrainRecord)
    except NotFoundError:
        return None
    return result if home.exists(WEIGHTS) else None


def write_pretraining(home: Store, config: Config, model: "nn.Module", epochs: Sequence[EpochRecord]) -> PretrainRecord:
    """Write the weights, then the result that says the pretraining is finished.

    The last layer, which has learnt grey values, is the one from before training: a segmentation that started with it
    would take bright for salt.

    Args:
        home: the pretraining's part of the store.
        config: of the pretraining.
        model: the pretrained network.
        epochs: its whole history.
    """
    from saltray.models.network import LAST_LAYER
    from saltray.runs.fold_output import write_weights
    from saltray.training.state import initial_model

    fresh = initial_model(config).state_dict()
    state = {
        name: fresh[name] if name.startswith(LAST_LAYER) else tensor for name, tensor in model.state_dict().items()
    }
    result = PretrainRecord(
        loss=epochs[-1].loss,
        epochs=epochs[-1].epoch,
        seconds=sum(epoch.seconds for epoch in epochs),
        weights_sha256=write_weights(home, state),
    )
    home.put_record(RESULT, result)
    return result
