"""The weights that training starts from: one file for all folds, or an earlier ensemble, a member for each fold."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from saltray.config import Config, ModelConfig
from saltray.data.folds import assign_folds
from saltray.data.packed import DatasetManifest
from saltray.data.problems import and_more
from saltray.data.tiles import TileIndex
from saltray.ensemble.layout import is_ensemble_uri, member_of_uri, version_prefix
from saltray.ensemble.load import read_member
from saltray.ensemble.manifest import EnsembleManifest, Member, PseudoLabelsProvenance, WeightsProvenance
from saltray.ensemble.versions import read_manifest, resolve
from saltray.errors import ConfigError, ModelError, NotFoundError
from saltray.records import to_record
from saltray.runs.layout import MANIFEST, SPLIT, fold_of_uri, run_folder
from saltray.runs.manifests import manifest_of
from saltray.runs.records import RunManifest, Split
from saltray.storage.base import Store
from saltray.storage.uri import open_store

if TYPE_CHECKING:
    from saltray.models.network import Network

Weights = Mapping[str, NDArray[Any]]
"""A network's state dict."""
Provenance = WeightsProvenance | PseudoLabelsProvenance


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """What the networks of a run start from."""

    by_fold: tuple[Weights, ...]
    """One per fold; the same object for all of them if it is of one file."""
    provenance: WeightsProvenance

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the weights of all folds."""
        parts = {id(weights): _digest(weights) for weights in self.by_fold}
        if len(parts) == 1:
            return next(iter(parts.values()))
        return sha256("".join(parts[id(weights)] for weights in self.by_fold).encode()).hexdigest()


def read_initial_weights(config: Config, before: WeightsProvenance | None = None) -> InitialWeights | None:
    """Read what `model.weights` names, once, in the driver: a fault is found before anything starts.

    Args:
        config: the run.
        before: what an earlier command of the same run started from, if it named the same `model.weights`; of an
            ensemble the same version is taken again, whatever was published since.

    Raises:
        ModelError: the weights cannot be read, or do not fit the network.
        EnsembleError: there is no such ensemble, or a member is no state dict.
        IntegrityError: a member is not the one that was published.
        StorageError: the store refuses.
    """
    weights = config.model.weights
    if weights is None:
        return None
    if is_ensemble_uri(weights):
        return _read_ensemble(config, before.uri if before is not None and before.members else weights)
    from saltray.models.weights import load_weights
    from saltray.training.state import initial_model

    model = initial_model(config)
    sha256 = load_weights(model, weights)
    folds = config.folds.count
    found = source_of(weights)
    if found is not None and sha256 is not None:
        provenance = WeightsProvenance(uri=found[0], sha256=(sha256,) * folds, members=(found[1],) * folds)
    else:
        provenance = WeightsProvenance(uri=weights, sha256=() if sha256 is None else (sha256,))
    return InitialWeights((_arrays(model),) * folds, provenance)


def source_of(weights: str) -> tuple[str, int] | None:
    """The version of an ensemble, or the run, that a file of weights is of, and the fold there; None for another."""
    found = member_of_uri(weights) or fold_of_uri(weights)
    return found if found is not None and open_store(found[0]).exists(MANIFEST) else None


class Started(Protocol):
    """The manifest of a run or a search."""

    @property
    def config(self) -> Config: ...
    @property
    def initial_weights(self) -> WeightsProvenance | None: ...
    @property
    def pseudo_labels(self) -> PseudoLabelsProvenance | None: ...


@dataclass(frozen=True, kw_only=True)
class Origins:
    """What training used of earlier ones, where it used something."""

    weights: WeightsProvenance | None = None
    pseudo_labels: PseudoLabelsProvenance | None = None


def origins_before(home: Store, kind: type[Started], config: Config) -> Origins:
    """What an earlier command used, if there was one and it named the same `model.weights` and `pseudo_labels`.

    Args:
        home: the part of the store of a run or a search.
        kind: class of its manifest.
        config: that of this command.
    """
    try:
        before = manifest_of(home, kind)
    except NotFoundError:
        return Origins()
    was = before.config
    return Origins(
        weights=before.initial_weights if was.model.weights == config.model.weights else None,
        pseudo_labels=before.pseudo_labels if was.pseudo_labels.ensemble == config.pseudo_labels.ensemble else None,
    )


def _read_ensemble(config: Config, uri: str) -> InitialWeights:
    from saltray.models.weights import load_state
    from saltray.training.state import initial_model

    home = resolve(uri)
    manifest = read_manifest(home)
    chosen = [members[-1] for members in members_by_fold(manifest, config.folds.count)]
    loaded: dict[int, Weights] = {}
    for member in chosen:
        if member.fold not in loaded:
            model = initial_model(config)
            try:
                load_state(model, read_member(home, member), f"{home.uri}/{member.key}")
            except ModelError as error:
                raise _misfit(home, manifest, config.model, error) from error
            loaded[member.fold] = _arrays(model)
    provenance = WeightsProvenance(
        uri=home.uri,
        sha256=tuple(member.sha256 for member in chosen),
        members=tuple(member.fold for member in chosen),
    )
    return InitialWeights(tuple(loaded[member.fold] for member in chosen), provenance)


def members_by_fold(manifest: EnsembleManifest, count: int) -> tuple[tuple[Member, ...], ...]:
    """The models of an ensemble, all snapshots of one of its folds, for each of so many folds; in turn."""
    own = sorted({member.fold for member in manifest.members})
    chosen = (own[fold % len(own)] for fold in range(count))
    return tuple(tuple(member for member in manifest.members if member.fold == fold) for fold in chosen)


def _misfit(home: Store, manifest: EnsembleManifest, now: ModelConfig, error: ModelError) -> ModelError:
    """What differs, by the settings' names; torch knows only tensors."""
    own, other = to_record(now), to_record(manifest.config.model)
    differing = [f"model.{name} {other[name]}" for name in own if name != "weights" and own[name] != other[name]]
    if not differing:
        return error
    return ModelError(f"ensemble {home.uri} is of another network; use its {', '.join(differing)}, or other weights")


def check_unseen(
    provenance: Provenance,
    tiles: TileIndex,
    fold_of: NDArray[np.int64],
    dataset: DatasetManifest,
) -> None:
    """Refuse models of an ensemble or a run where one was trained on a tile that its fold now holds out.

    The fold's score would be that of tiles it has seen. What the ensemble itself started from, and the models that
    labelled test tiles for it, count as well.

    Args:
        provenance: of the run's initial weights, or of its pseudo-labels; weights of a file that is of no run or
            ensemble are taken as they are.
        tiles: all of them.
        fold_of: [N] fold of each tile.
        dataset: the packed tiles.

    Raises:
        ConfigError: there is such a tile, or nothing tells what the ensemble was trained on.
        EnsembleError, NotFoundError: the ensemble or the run is gone.
    """
    left: list[tuple[Provenance, tuple[int, ...]]] = [(provenance, provenance.members)]
    visited: set[tuple[str, tuple[int, ...]]] = set()
    while left:
        origin, members = left.pop(0)
        if not members or (origin.uri, members) in visited:
            continue
        visited.add((origin.uri, members))
        manifest, split = _trained_with(origin.uri, tiles, dataset)
        for fold, member in enumerate(members):
            held_out = [tiles.ids[at] for at in np.flatnonzero(fold_of == fold)]
            if seen := [tile for tile in held_out if split.get(tile, member) != member]:
                raise ConfigError(_seen_text(fold, seen, member, origin, manifest, provenance))
        before = [one for one in (manifest.initial_weights, manifest.pseudo_labels) if one is not None and one.members]
        left += [(one, tuple(one.members[member % len(one.members)] for member in members)) for one in before]


def _seen_text(
    fold: int,
    seen: list[str],
    member: int,
    origin: Provenance,
    manifest: EnsembleManifest | RunManifest,
    asked: Provenance,
) -> str:
    tiles, folds = f"{len(seen)} tile{'s' * (len(seen) > 1)}", manifest.config.folds
    if len(set(origin.members)) == 1:
        remedy = "start each fold from its own model, by --model.weights STORE/ensembles/NAME"
    else:
        remedy = (
            f"use its tiles and its split (folds.count {folds.count}, folds.scheme {folds.scheme}, folds.seed "
            f"{folds.seed})"
        )
    if isinstance(asked, PseudoLabelsProvenance):
        other = "another pseudo_labels.ensemble"
    else:
        other = "weights that have seen no masks, such as those of `saltray pretrain`"
    return (
        f"fold {fold} holds out {tiles} that the model of fold {member} in {origin.uri} was trained on "
        f"({and_more(seen)}), so its score would be too good; {remedy}, or {other}"
    )


def _trained_with(
    uri: str, tiles: TileIndex, dataset: DatasetManifest
) -> tuple[EnsembleManifest | RunManifest, Mapping[str, int]]:
    """The manifest of an ensemble's version or of a run, and the fold of each tile that it was trained with."""
    if not is_ensemble_uri(uri):
        run = open_store(uri)
        return manifest_of(run, RunManifest), run.get_record(SPLIT, Split).fold_of
    home = resolve(uri)
    manifest = read_manifest(home)
    store = open_store(home.uri.removesuffix(f"/{version_prefix(manifest.name, manifest.version)}"))
    run = store.sub(run_folder(manifest.run))
    try:
        before, split = manifest_of(run, RunManifest), run.get_record(SPLIT, Split)
        if (before.dataset, before.config.folds) == (manifest.dataset, manifest.config.folds):
            return manifest, split.fold_of
        reason = f"{run.uri} is another run of the same name"
    except NotFoundError as error:
        reason = f"its run is gone ({error})"
    if manifest.dataset == dataset.digest:  # the split is a function of the tiles
        folds = assign_folds(tiles, manifest.config.folds)
        return manifest, dict(zip(tiles.ids, folds.tolist(), strict=True))
    raise ConfigError(
        f"nothing tells which tiles {home.uri} was trained on, as {reason}; use the very tiles that it was trained on, "
        "or other weights"
    )


def _arrays(model: "Network") -> Weights:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def _digest(weights: Weights) -> str:
    whole = sha256()
    for name in sorted(weights):
        whole.update(weights[name].tobytes())
    return whole.hexdigest()
