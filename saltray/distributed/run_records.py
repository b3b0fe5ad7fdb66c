"""A run in the store: begun once, the same for everyone who works on it, and read back when it is done."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saltray.config import Config, check_name, digest, to_dict
from saltray.data.folds import fold_balance
from saltray.data.tiles import Tiles
from saltray.ensemble.manifest import FoldResult, provenance
from saltray.errors import ConfigError, IntegrityError, NotFoundError
from saltray.storage.base import Store

RESULT = "result.json"
WEIGHTS = "model.safetensors"
OOF = "oof.parquet"
CHECKPOINTS = "checkpoints"
ERROR = "error.txt"


@dataclass(frozen=True)
class TrainResult:
    """What a finished run gave."""

    run: str
    results: tuple[FoldResult, ...]
    """One a fold, in order."""
    score: float
    """Out-of-fold competition score at a probability of 0.5, over all tiles."""
    threshold: float
    """Probability chosen on the out-of-fold predictions."""
    score_at_threshold: float
    floor: float
    """Score of predicting no salt at all on the same tiles."""
    ensemble: str
    """URI of the published version."""
    report: str
    """URI of the run's HTML page."""


def find_run(root: Store, run: str) -> Store:
    """A run's part of a store.

    Raises:
        NotFoundError: there is no such run; the message tells which there are.
    """
    home = root.sub(f"runs/{check_name(run, 'run')}")
    if not home.exists("manifest.json"):
        names = ", ".join(root.folders("runs"))
        remedy = f"there are {names}" if names else "there is none yet; `saltray train` makes one"
        raise NotFoundError(f"no run {run} in {root.uri}; {remedy}")
    return home


def begin(
    store: Store,
    config: Config,
    dataset: dict[str, Any],
    tiles: Tiles,
    fold_of: NDArray[np.int64],
    initial: dict[str, Any] | None = None,
    origin: dict[str, Any] | None = None,
) -> None:
    """Write what the run is, once; a later command must agree with it.

    Args:
        store: the run's part of the store.
        config: the run.
        dataset: the manifest of the packed tiles.
        tiles: all of them.
        fold_of: [N] fold of each tile.
        initial: weights before training, where some were given.
        origin: the search that the configuration's values come from, where one was named.

    Raises:
        ConfigError: a run of this name exists with other settings or other tiles.
    """
    assert tiles.masks is not None
    identity = digest({"config": config.identity, "dataset": dataset["digest"], "initial": digest_of(initial)})
    manifest = {
        "run": config.run,
        "identity": identity,
        "config": to_dict(config),
        "dataset": dataset["digest"],
        "origin": origin,
        "provenance": provenance(),
    }
    begun = store.put_new_json("manifest.json", manifest)
    before = manifest if begun else store.get_json("manifest.json")
    if before["identity"] != identity:
        raise ConfigError(
            f"run {config.run} was begun with other {_difference(before, config, dataset)}; "
            "give those again to finish it, or choose another --run"
        )
    split = {
        "fold_of": dict(zip(tiles.ids, map(int, fold_of), strict=True)),
        "balance": fold_balance(tiles.masks, fold_of, config.folds.count),
    }
    store.put_new_json("folds.json", split)


def initial_weights(config: Config) -> dict[str, Any]:
    """The network's weights before training, with those of `config.model.weights` in its encoder.

    Read once, by the driver: a wrong name is found before anything starts, and every rank begins alike.

    Raises:
        ModelError, StorageError: the weights cannot be had, or do not fit.
    """
    from saltray.models.weights import load_encoder_weights
    from saltray.training.state import initial_model

    assert config.model.weights is not None
    model = initial_model(config)
    load_encoder_weights(model, config.model.weights)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def digest_of(initial: dict[str, Any] | None) -> str | None:
    """SHA-256, in hex, of the weights before training, where some were given."""
    if initial is None:
        return None
    whole = hashlib.sha256()
    for name in sorted(initial):
        whole.update(initial[name].tobytes())
    return whole.hexdigest()


def _difference(before: dict[str, Any], config: Config, dataset: dict[str, Any]) -> str:
    """Names of what differs, for a message."""
    names = []
    if before["dataset"] != dataset["digest"]:
        names.append("tiles")
    now = config.identity
    for section, values in now.items():
        was = before["config"].get(section, {})
        names += [f"{section}.{name} ({was.get(name)})" for name, value in values.items() if was.get(name) != value]
    return ", ".join(names) or "encoder weights"


def finished(store: Store, fold: int) -> FoldResult | None:
    """The result of a fold, or None where it is not done."""
    try:
        return FoldResult.from_json(store.get_json(f"fold-{fold}/{RESULT}"))
    except NotFoundError:
        return None


def out_of_fold(store: Store, results: list[FoldResult], tiles: Tiles) -> NDArray[np.float16]:
    """Out-of-fold probabilities of all tiles, [N, H, W], in the order of `tiles`.

    Raises:
        IntegrityError: the folds' predictions are not those of these tiles.
    """
    at = {tile: index for index, tile in enumerate(tiles.ids)}
    whole = np.full(tiles.images.shape, np.nan, dtype=np.float16)
    for result in results:
        table = store.get_table(f"fold-{result.fold}/{OOF}", sha256=result.oof_sha256)
        try:
            for tile, row in zip(table["id"].to_pylist(), table["probability"].to_pylist(), strict=True):
                whole[at[tile]] = np.frombuffer(row, dtype=np.float16).reshape(tiles.images.shape[1:])
        except (KeyError, ValueError) as error:
            raise IntegrityError(
                f"predictions of fold {result.fold} are of other tiles ({error}); choose another --run and train anew"
            ) from error
    if np.isnan(whole).any():
        raise IntegrityError("some tiles have no out-of-fold prediction; choose another --run and train it anew")
    return whole
