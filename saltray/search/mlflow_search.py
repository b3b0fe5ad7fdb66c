"""A search in MLflow: what it varies, each trial's values and epochs, and the best trial.

Everything sent is read from the store; `runs.mirror` says how nothing is sent twice.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from saltray.config import Values, value_text
from saltray.errors import NotFoundError
from saltray.progress import Event, TrialEnded, TrialEpoch, TrialStarted, TrialStatus
from saltray.records import flat, to_record
from saltray.runs.history import epochs_of, read_history
from saltray.runs.mirror import Mirror, Status
from saltray.search.layout import BEST
from saltray.search.objective import best_epoch
from saltray.search.results import BestTrial
from saltray.search.trials import SearchManifest, Trial, read_epochs
from saltray.storage.base import Store
from saltray.training.epoch_metrics import EpochMetrics

STATUSES: dict[TrialStatus, Status] = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "stopped": "KILLED",
    "diverged": "FAILED",
    "failed": "FAILED",
}
"""MLflow has no word of its own for a trial that was pruned; the tag `saltray.status` has ours."""


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A trial, as the events have it."""

    values: Values
    status: TrialStatus
    told: Status
    reason: str | None
    news: int = 0
    """Events of this command about it."""


class MLflowSearch:
    """Sends to MLflow what the store has of a search and MLflow has not; see `runs.tracking.Mirrored`.

    Args:
        home: the search's part of the store.
        manifest: of the search.
        trials: those of earlier commands.
    """

    what: Literal["search"] = "search"

    def __init__(self, home: Store, manifest: SearchManifest, trials: Iterable[Trial]) -> None:
        self._home, self._manifest = home, manifest
        self._mirror: Mirror | None = None
        self._trials: dict[str, _Known] = {}
        for trial in trials:
            told = "SCHEDULED" if trial.status == "running" else STATUSES[trial.status]
            self._trials[trial.name] = _Known(values=trial.values, status=trial.status, told=told, reason=trial.reason)
        self._sent: dict[str, _Known] = {}
        self._status: Status = "RUNNING"

    def take(self, event: Event) -> bool:
        """Take in an event, and say whether there is something to send."""
        if not isinstance(event, TrialStarted | TrialEpoch | TrialEnded):
            return False
        trial = event.trial
        before = self._trials.get(trial.name)
        self._trials[trial.name] = _Known(
            values=trial.values,
            status=trial.status,
            told=STATUSES[trial.status],
            reason=trial.reason,
            news=1 if before is None else before.news + 1,
        )
        return True

    def end(self, status: Status) -> None:
        """The command ends; trials that still run are resumed by the same one."""
        for name, known in list(self._trials.items()):
            if known.status == "running":
                self._trials[name] = replace(known, told="SCHEDULED", news=known.news + 1)
        self._status = status

    def send(self) -> None:
        """Send what is missing."""
        mirror = self._open()
        status = self._status
        for name, known in list(self._trials.items()):
            if self._sent.get(name) != known:
                if known.news or not self._was_sent(mirror, name, known):
                    self._send_trial(mirror, name, known)
                self._sent[name] = known
        if status == "FINISHED":
            self._send_best(mirror)
        mirror.tell_status(mirror.run, status)

    def _open(self) -> Mirror:
        manifest = self._manifest
        self._mirror = mirror = self._mirror or Mirror(
            self._home,
            f"search {manifest.search}",
            manifest.identity,
            extensible=False,
            kind="search",
            part="trial",
        )
        settings = {
            f"search.{name}": value
            for name, value in to_record(manifest).items()
            if name in ("folds", "sampler", "prune", "seed")
        }
        settings |= {f"search.space.{field}": text for field, text in manifest.space.items()}
        varied = manifest.space.keys()  # what a trial has another value of
        config = {name: value for name, value in flat(to_record(manifest.config)) if name not in varied}
        mirror.open(config | settings, {})
        return mirror

    @staticmethod
    def _was_sent(mirror: Mirror, name: str, known: _Known) -> bool:
        """Whether an earlier command has sent all of a trial, which was not retried since."""
        return known.status in ("finished", "stopped") and mirror.has_told(name, known.told)

    def _send_trial(self, mirror: Mirror, name: str, known: _Known) -> None:
        epochs = self._epochs(name, known)
        run = mirror.nested(name, name)
        before = self._sent.get(name)
        if before is None:
            mirror.send_settings(run, {field: value_text(value) for field, value in known.values.items()})
        mirror.send_epochs(run, epochs)
        if before is None or (before.status, before.reason) != (known.status, known.reason):
            mirror.set_tags(run, {"saltray.status": known.status, "saltray.reason": known.reason or ""})
        best = best_epoch(epochs) if known.status in ("finished", "stopped") else None
        if best is not None and best.score is not None:
            mirror.set_metric(run, "best_score", best.score, step=best.epoch)
        mirror.tell_status(run, known.told)

    def _epochs(self, name: str, known: _Known) -> tuple[EpochMetrics, ...]:
        """Those of its result, at the times that its history has; until it has ended, those of its history."""
        history = epochs_of(read_history(self._home.sub(name)))
        if known.status == "running":
            return history
        at = {epoch.epoch: epoch for epoch in history}
        ended: tuple[EpochMetrics, ...] = ()
        with suppress(NotFoundError):
            (ended,) = read_epochs(self._home, [name])
        return tuple(at.get(epoch.epoch, epoch) for epoch in ended)

    def _send_best(self, mirror: Mirror) -> None:
        """Which trial is the best one, with its score and its values; of a longer search, it may be another."""
        best = self._home.get_record(BEST, BestTrial)
        values = {f"saltray.best.{field}": value_text(value) for field, value in best.values.items()}
        mirror.set_tags(mirror.run, {"saltray.best_trial": best.trial} | values)
        mirror.set_metric(mirror.run, "best_score", best.score, step=best.trials)
