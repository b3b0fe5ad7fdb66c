"""Publishing: claim a version, write the members, write the manifest last.

The claim is a create-only put, so that two processes never write into one version. A process that dies while it
publishes leaves an incomplete version, which readers ignore and whose number is not reused.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

from saltray.config import Config
from saltray.data.packed import DatasetManifest
from saltray.ensemble.card import model_card
from saltray.ensemble.layout import (
    CLAIM,
    MANIFEST,
    MODEL_CARD,
    member_key,
    version_name,
    version_prefix,
)
from saltray.ensemble.manifest import (
    EnsembleManifest,
    Member,
    PseudoLabelsProvenance,
    SearchProvenance,
    WeightsProvenance,
    provenance,
)
from saltray.ensemble.postprocess import Postprocess
from saltray.ensemble.versions import last_number, versions_of
from saltray.errors import EnsembleError
from saltray.storage.base import Store
from saltray.storage.files import scratch_folder
from saltray.storage.retry import pause
from saltray.training.evaluation import Evaluation

LONGEST_PAUSE_S = 1.0
"""Between two attempts to claim a version."""


@dataclass(frozen=True, kw_only=True)
class FoldModel:
    """Trained weights of one fold in the store."""

    fold: int
    snapshot: int = 1
    """The number of the cycle, from 1, that they end."""
    key: str
    """Key relative to the whole store, such as runs/r1/fold-0/model.safetensors."""
    sha256: str
    """Digest of the weights, in hex."""
    score: float
    """Competition score of the fold's held-out tiles at a probability of 0.5."""


def publish(
    store: Store,
    *,
    config: Config,
    models: Sequence[FoldModel],
    postprocess: Postprocess,
    score: float,
    score_at_threshold: float,
    baseline: float,
    evaluation: Evaluation | None,
    dataset: DatasetManifest,
    search_provenance: SearchProvenance | None = None,
    weights_provenance: WeightsProvenance | None = None,
    pseudo_labels: PseudoLabelsProvenance | None = None,
) -> EnsembleManifest:
    """Publish the models of a run as the next version of the ensemble that has the run's name.

    If a version of these very models exists, that one is returned, so the same command twice publishes once.

    Args:
        store: the whole store.
        config: the run's configuration.
        models: one per fold and snapshot, in any order.
        postprocess: how probabilities become masks.
        score: out-of-fold competition score at 0.5.
        score_at_threshold: the same with `postprocess`.
        baseline: score of predicting no salt at all: the share of empty tiles.
        evaluation: what the out-of-fold predictions are worth.
        dataset: the manifest of the packed tiles.
        search_provenance: the search that found the run's values, if there was one.
        weights_provenance: where the weights before training came from, if some were given.
        pseudo_labels: the models that labelled test tiles, and these, if training used some.

    Raises:
        EnsembleError: a fold or a snapshot is missing.
        NotFoundError, IntegrityError: weights are missing, or are not those of the digest.
    """
    _check_complete(config, models)
    models = sorted(models, key=lambda model: (model.fold, model.snapshot))
    members = tuple(
        Member(
            fold=model.fold,
            snapshot=model.snapshot,
            key=member_key(model.fold, model.snapshot if config.train.snapshots > 1 else None),
            sha256=model.sha256,
            score=model.score,
        )
        for model in models
    )
    versions = versions_of(store, config.run)
    for version in versions:
        if version.manifest is not None and version.manifest.members == members:
            return version.manifest
    manifest = EnsembleManifest(
        name=config.run,
        version=_claim(store, config.run),
        members=members,
        height=dataset.height,
        width=dataset.width,
        postprocess=postprocess,
        score=score,
        score_at_threshold=score_at_threshold,
        baseline=baseline,
        evaluation=evaluation,
        run=config.run,
        dataset=dataset.digest,
        pixel_range=dataset.pixel_range,
        config=config,
        provenance=provenance(),
        search_provenance=search_provenance,
        initial_weights=weights_provenance,
        pseudo_labels=pseudo_labels,
    )
    home = store.sub(version_prefix(manifest.name, manifest.version))
    for model, member in zip(models, members, strict=True):
        _copy(store, model, home, member.key)
    home.put(MODEL_CARD, model_card(manifest).encode())
    if not home.put_new_record(MANIFEST, manifest):
        raise EnsembleError(f"{home.uri} was published by another process; publish again to get the next version")
    return manifest


def _check_complete(config: Config, models: Sequence[FoldModel]) -> None:
    missing = sorted(set(range(config.folds.count)) - {model.fold for model in models})
    if missing:
        raise EnsembleError(
            f"run {config.run} lacks fold {', '.join(map(str, missing))}, so it is not published; "
            "run the same command again to train what is missing"
        )
    there = {(model.fold, model.snapshot) for model in models}
    lacking = [
        (fold, cycle) for fold in range(config.folds.count) for cycle in config.snapshots if (fold, cycle) not in there
    ]
    if lacking:
        fold, cycle = lacking[0]
        raise EnsembleError(
            f"run {config.run} lacks snapshot {cycle} of fold {fold}, so it is not published; choose another run name"
        )


def _claim(store: Store, name: str) -> str:
    """Claim the version after the last; the loser of a race looks again, after a pause that lets others go first."""
    for attempts in itertools.count(1):
        number = last_number(store, name) + 1
        version = version_name(number)
        if store.put_new_json(f"{version_prefix(name, version)}/{CLAIM}", {"version": version}):
            return version
        time.sleep(min(pause(attempts), LONGEST_PAUSE_S))
    raise AssertionError("count never ends")


def _copy(store: Store, model: FoldModel, home: Store, key: str) -> None:
    with scratch_folder() as folder:
        path = folder / key
        store.get_file(model.key, path, sha256=model.sha256)
        home.put_file(key, path)
