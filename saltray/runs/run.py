"""A run: created once, the same for everyone who works on it, and read back when its folds are finished."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saltray.config import Config, check_name
from saltray.data.folds import fold_balance
from saltray.data.tiles import TileIndex
from saltray.ensemble.manifest import PseudoLabelsProvenance, SearchProvenance, WeightsProvenance, provenance
from saltray.errors import ConfigError, IntegrityError, NotFoundError
from saltray.records import digest, to_record
from saltray.runs.history import epochs_of, read_history
from saltray.runs.layout import (
    CHECKPOINTS,
    FOLD_PREFIX,
    MANIFEST,
    REPORT,
    RESULT,
    RUNS,
    SPLIT,
    checkpoint_epoch,
    fold_folder,
    run_folder,
)
from saltray.runs.manifests import changed_unseen, manifest_of
from saltray.runs.records import FoldResult, RunManifest, Split
from saltray.storage.base import Store
from saltray.wording import there_are

if TYPE_CHECKING:  # `saltray status` loads no pyarrow
    from saltray.data.packed import DatasetManifest


def find_run(root: Store, run: str) -> Store:
    """A run's part of a store.

    Raises:
        NotFoundError: there is no such run; the message names those that there are.
    """
    home = root.sub(run_folder(check_name(run, "run")))
    if not home.exists(MANIFEST):
        remedy = there_are(run, root.folders(RUNS), "there are none yet; `saltray train` creates one")
        raise NotFoundError(f"no run {run} in {root.uri}; {remedy}")
    return home


def create_run(
    home: Store,
    config: Config,
    *,
    tiles: TileIndex,
    fold_of: NDArray[np.int64],
    dataset: "DatasetManifest",
    initial_weights: str | None,
    search_provenance: SearchProvenance | None,
    weights_provenance: WeightsProvenance | None = None,
    pseudo_labels: PseudoLabelsProvenance | None = None,
) -> RunManifest:
    """Write what the run is; every later command must agree with it, once an epoch was trained.

    Only `train.epochs` may grow then, where the schedule does not depend on it: the results go, the checkpoints stay.

    Args:
        home: the run's part of the store; the caller holds its lock.
        config: the run.
        tiles: all of them.
        fold_of: [N] fold of each tile.
        dataset: the packed tiles.
        initial_weights: digest of the weights before training, where some were given.
        search_provenance: the search that the configuration's values come from, where one was named.
        weights_provenance: where the weights before training come from, where some were given.
        pseudo_labels: the models that label test tiles, and these, where training uses some.

    Returns:
        the manifest of the command that created the run.

    Raises:
        ConfigError: a run of this name has trained with other settings or other tiles.
    """
    identity = identity_of({"config": config.identity}, dataset.digest, initial_weights, pseudo_labels)
    manifest = RunManifest(
        run=config.run,
        identity=identity,
        config=config,
        dataset=dataset.digest,
        search_provenance=search_provenance,
        initial_weights=weights_provenance,
        pseudo_labels=pseudo_labels,
        provenance=provenance(),
    )
    created = home.put_new_record(MANIFEST, manifest)
    before = manifest if created else manifest_of(home, RunManifest)
    if before.run != config.run:
        raise ConfigError(
            f"run {config.run} and run {before.run} are the same folder on this file system, which does not tell "
            "capitals from small letters; choose another run name"
        )
    folds = [name for name in home.folders() if name.startswith(FOLD_PREFIX)]
    if before.identity != identity and not any(
        home.exists(f"{fold}/{RESULT}") or has_epochs(home.sub(fold)) for fold in folds
    ):
        # Begun, and never trained an epoch. The manifest comes last: an interrupted replacement is one still.
        for fold in folds:
            home.delete_prefix(fold)
        home.delete(SPLIT)
        home.put_record(MANIFEST, manifest)
        before = manifest
    if before.identity != identity and _is_longer(before, manifest, initial_weights):
        _extend(home, folds, before.config.train.epochs)
        manifest = replace(manifest, search_provenance=before.search_provenance)
        home.put_record(MANIFEST, manifest)
        before = manifest
    if before.identity != identity:
        changed = ["tiles"] if before.dataset != dataset.digest else []
        changed += changed_settings(before.config, config) or changed_labels(before.pseudo_labels, pseudo_labels)
        raise ConfigError(
            f"run {config.run} was started with other {', '.join(changed) or changed_unseen(before.provenance)}; "
            "use those again to finish it, or choose another run name"
        )
    split = Split(
        fold_of=dict(zip(tiles.ids, map(int, fold_of), strict=True)),
        balance=fold_balance(tiles.coverage, fold_of, config.folds.count),
    )
    home.put_new_record(SPLIT, split)
    return before


def identity_of(
    settings: dict[str, Any], tiles: str, weights: str | None, labels: PseudoLabelsProvenance | None
) -> str:
    """SHA-256, in hex, of all that decides the results of a run or a search.

    Args:
        settings: its identity.
        tiles: content digest of the tiles.
        weights: digest of the weights before training, where some were given.
        labels: the models that label test tiles, where training uses some.
    """
    known = settings | {"dataset": tiles, "initial": weights}
    return digest(known if labels is None else known | {"pseudo_labels": labels.digest})


def _is_longer(before: RunManifest, now: RunManifest, initial_weights: str | None) -> bool:
    """Whether the run only gets more epochs.

    Raises:
        ConfigError: only the number of epochs differs, and they cannot be added.
    """
    run, epochs, wanted = now.run, before.config.train.epochs, now.config.train.epochs
    if changed_settings(before.config, now.config) != [f"train.epochs ({epochs})"]:
        return False
    # Tiles and initial weights decide the results, too. Not the stored settings: a 1 is read back as 1.0.
    as_before = replace(now.config, train=replace(now.config.train, epochs=epochs))
    if identity_of({"config": as_before.identity}, now.dataset, initial_weights, now.pseudo_labels) != before.identity:
        return False
    if wanted < epochs:
        raise ConfigError(
            f"run {run} has train.epochs {epochs}, and {wanted} would be fewer; use {epochs} or more, or choose "
            "another run name"
        )
    if not before.config.can_be_extended:
        raise ConfigError(
            f"run {run} cannot be trained to train.epochs {wanted}: its learning rate falls to zero at epoch {epochs} "
            f"(optim.schedule {before.config.optim.schedule}); choose another run name, and start from the published "
            f"models with --model.weights {now.config.store}/ensembles/{run}"
        )
    return True


def _extend(home: Store, folds: list[str], epochs: int) -> None:
    """Make the finished folds unfinished ones, which resume from their last checkpoints.

    The results go before the manifest changes: whoever resumes in between finishes the run as it was.

    Raises:
        ConfigError: a fold has no checkpoint.
    """
    finished = [fold for fold in folds if home.exists(f"{fold}/{RESULT}")]
    for fold in finished:
        if not any(checkpoint_epoch(entry.key) for entry in home.sub(fold).list(CHECKPOINTS)):
            raise ConfigError(
                f"{fold} left no checkpoint to resume from after its {epochs} epochs; choose another run name"
            )
    home.delete(REPORT)
    for fold in finished:
        home.delete(f"{fold}/{RESULT}")


def has_epochs(home: Store) -> bool:
    """Whether a fold or a trial has finished an epoch, or has a record of which it cannot be told."""
    if any(checkpoint_epoch(entry.key) is not None for entry in home.list(CHECKPOINTS)):
        return True
    try:
        return bool(epochs_of(read_history(home)))
    except IntegrityError:
        return True


def changed_settings(before: Config, now: Config) -> list[str]:
    """Each setting that decides the results and differs, with its value before, for a message."""
    was, own = (config.identity | {"pseudo_labels": to_record(config.pseudo_labels)} for config in (before, now))
    return [
        f"{section}.{name} ({was[section][name]})"
        for section, values in own.items()
        for name, value in values.items()
        if was[section][name] != value
    ]


def changed_labels(before: PseudoLabelsProvenance | None, now: PseudoLabelsProvenance | None) -> list[str]:
    """What else decides pseudo-labels and differs, for a message."""
    if before is None or now is None or before.digest == now.digest:
        return []
    return ["test images" if before.images != now.images else "models in pseudo_labels.ensemble"]


def fold_result(home: Store, fold: int) -> FoldResult | None:
    """The result of a fold of a run; None where it is not finished."""
    try:
        return home.get_record(f"{fold_folder(fold)}/{RESULT}", FoldResult)
    except NotFoundError:
        return None
