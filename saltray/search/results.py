"""What a search found: a table of its trials, the best one, and files for TensorBoard."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saltray.config import Config, Name, Space, StoredConfig, Values
from saltray.ensemble.manifest import SearchProvenance
from saltray.errors import ConfigError, IntegrityError, NotFoundError
from saltray.progress import TrialStatus
from saltray.records import Count, Epoch, Fold, Fraction, Many, Rate, RecordError, from_record
from saltray.runs.layout import events_file
from saltray.runs.manifests import manifest_of
from saltray.runs.tensorboard import epoch_events, to_file
from saltray.search.layout import BEST, RANGE_TEST_NUMBERS, SEARCHES, TRIALS, search_folder
from saltray.search.space import apply_values, has_value, parse_space
from saltray.search.spec import SearchSpec
from saltray.search.trials import SearchManifest, Trial
from saltray.storage.base import Store
from saltray.storage.uri import open_store
from saltray.wording import excerpt, there_are

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """A row of `trials.parquet`, as far as a picture needs it."""

    trial: Name
    status: TrialStatus
    values: Values
    score: Fraction | None
    """Best validation score; None for a trial that diverged or failed."""


@dataclass(frozen=True, kw_only=True)
class BestTrial:
    """`searches/<search>/best.json`: the best trial of a search."""

    search: Name
    trial: Name
    values: Values
    score: Fraction
    """Its best validation score."""
    epoch: Epoch
    """The epoch of that score."""
    folds: tuple[Fold, ...]
    trials: Count
    """Trials of the search."""


@dataclass(frozen=True, kw_only=True)
class RangeTestRecord:
    """`searches/<search>/range-test.json`: what a learning-rate range test gave."""

    rates: Many[Rate]
    """Learning rate of each step, rising."""
    losses: Many[float]
    """Training loss of each step."""
    smooth: Many[float]
    """Moving average of the losses."""
    suggestion: Rate | None
    config: StoredConfig


def trials_frame(trials: Sequence[Trial]) -> "pd.DataFrame":
    """One row per trial, in the order of their names.

    Columns: trial, status, a column for each searched field, score (best validation score; none for a trial that
    diverged or failed), valid_loss and epoch of that score, epochs (run in all), seconds (in the loop), reason.
    """
    import pandas as pd

    rows = []
    for trial in trials:
        best = trial.best
        rows.append(
            {
                "trial": trial.name,
                "status": trial.status,
                **trial.values,
                "score": best.score if best else None,
                "valid_loss": best.valid_loss if best else None,
                "epoch": best.epoch if best else None,
                "epochs": len(trial.epochs),
                "seconds": trial.seconds,
                "reason": trial.reason,
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({"score": "float64", "valid_loss": "float64", "epoch": "Int64", "reason": "object"})


def write_table(home: Store, trials: Sequence[Trial]) -> None:
    """Write `trials.parquet`."""
    import pyarrow as pa

    home.put_table(TRIALS, pa.Table.from_pandas(trials_frame(trials), preserve_index=False))


def read_table(home: Store) -> tuple[Space, list[TrialRow]]:
    """What a search varies, and its trials as `write_table` wrote them; nothing is written.

    Args:
        home: the search's part of the store.

    Raises:
        NotFoundError: there is no such search, or it has not ended.
        IntegrityError: its manifest or its table is corrupted.
    """
    space = parse_space(f"{field}={text}" for field, text in manifest_of(home, SearchManifest).space.items())
    rows = []
    for row in home.get_table(TRIALS).to_pylist():
        values = {field: row.get(field) for field in space}
        record = {name: row.get(name) for name in ("trial", "status", "score")} | {"values": values}
        try:
            found = from_record(TrialRow, record)
        except RecordError as error:
            raise IntegrityError(f"{home.uri}/{TRIALS}: {error}; run the same search again, which writes it") from error
        if wrong := [field for field, value in found.values.items() if not has_value(space[field], value)]:
            value = excerpt(found.values[wrong[0]])
            raise IntegrityError(
                f"{home.uri}/{TRIALS}: {wrong[0]} of {found.trial} is {value}, which is not in the search's space; run "
                "the same search again, which writes it"
            )
        rows.append(found)
    return space, rows


def read_range_test(home: Store) -> RangeTestRecord | None:
    """The range test beside a search; None where there is none.

    Raises:
        IntegrityError: it is corrupted.
    """
    try:
        found = home.get_record(RANGE_TEST_NUMBERS, RangeTestRecord)
    except NotFoundError:
        return None
    if not len(found.rates) == len(found.losses) == len(found.smooth):
        raise IntegrityError(f"{home.uri}/{RANGE_TEST_NUMBERS}: its rates and losses differ in number; delete it")
    return found


def write_best(home: Store, spec: SearchSpec, best: Trial, trials: int) -> BestTrial:
    """Write `best.json`."""
    assert best.best is not None
    assert best.best.score is not None
    record = BestTrial(
        search=spec.name,
        trial=best.name,
        values=dict(best.values),
        score=best.best.score,
        epoch=best.best.epoch,
        folds=spec.settings.folds,
        trials=trials,
    )
    home.put_record(BEST, record)
    return record


def write_events(home: Store, trial: Trial) -> None:
    """Write a trial's epochs and values for `tensorboard --logdir <store>/searches/<name>/tensorboard`."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import hparams, scalar

    now = time.time()
    events = epoch_events(trial.epochs, now)
    if trial.best is not None:
        values = hparams(dict(trial.values), {"score": trial.best.score})
        events += [Event(wall_time=now, summary=summary) for summary in values]
        best = scalar("best score", trial.best.score)
        events.append(Event(wall_time=now, step=len(trial.epochs), summary=best))
    home.put(events_file(trial.name), to_file(events, now))


def with_best_values(config: Config, source: str) -> tuple[Config, SearchProvenance]:
    """The configuration with the best values of a search, and their provenance for manifests.

    Args:
        config: of the run; its store holds the search unless `source` names another.
        source: searches/NAME, or the URI of a search in another store.

    Raises:
        ConfigError: there is no such search, or it has no result yet.
    """
    base, found, name = source.rstrip("/").rpartition(f"{SEARCHES}/")
    if not found or not name or "/" in name:
        raise ConfigError(f"{source!r} names no search; use searches/NAME, or STORE/searches/NAME")
    root = open_store(base.rstrip("/") or config.store)
    home = root.sub(search_folder(name))
    try:
        best = home.get_record(BEST, BestTrial)
    except NotFoundError:
        searches = root.folders(SEARCHES)
        if name not in searches:
            remedy = there_are(name, searches, f"there are none yet; `saltray tune --search.name {name}` creates it")
            raise ConfigError(f"no search {name} in {root.uri}; {remedy}") from None
        raise ConfigError(
            f"{home.uri} has no {BEST}; run `saltray tune --search.name {name}` again to finish that search, or name "
            "another"
        ) from None
    provenance = SearchProvenance(
        uri=home.uri, search=best.search, trial=best.trial, values=best.values, score=best.score, trials=best.trials
    )
    try:
        return apply_values(config, best.values), provenance
    except ConfigError as error:
        raise ConfigError(f"the values of {home.uri}/{BEST} cannot be used: {error}") from error
