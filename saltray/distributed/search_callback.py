"""What the driver learns of a search from Ray Tune: each epoch as it comes, and how each trial ends."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ray import tune

from saltray.distributed.process_death import process_death
from saltray.distributed.ray_internals import remove_orphaned_placement_groups
from saltray.distributed.trial import EPOCHS, REASON, STATUS
from saltray.distributed.trial_searcher import Hooks, hook
from saltray.progress import Observer, TrialEnded, TrialEpoch, TrialStarted, TrialStatus
from saltray.search.results import write_events
from saltray.search.spec import SearchSpec
from saltray.search.trials import Trial, finish_trial
from saltray.storage.base import Store
from saltray.storage.lock import RunLock
from saltray.training.epoch_metrics import EpochMetrics

log = logging.getLogger(__name__)
METRICS = tuple(field.name for field in fields(EpochMetrics))
CLEAN_UP_S = 1.0
"""Least time between two removals of orphaned placement groups."""


class SearchCallback(Hooks, tune.Callback):
    """Ray Tune's callback for a search: keeps the trials, writes how they end, tells the observer.

    Args:
        spec: the search.
        home: its part of the store.
        trials: those of earlier commands.
        lock: of the search; once it is lost, nothing more is written.
        observer: receives each start, epoch and end.
    """

    def __init__(
        self, spec: SearchSpec, home: Store, trials: Iterable[Trial], lock: RunLock, observer: Observer
    ) -> None:
        super().__init__([])
        self._length = spec.config.train.epochs
        self._home = home
        self._trials = {trial.index: trial for trial in trials}
        self._lock = lock
        self._observer = observer
        self._cleaned_up = 0.0

    @property
    def trials(self) -> list[Trial]:
        """All trials so far, in order."""
        return [self._trials[index] for index in sorted(self._trials)]

    @hook
    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Free what stopped trials had reserved, for those that are queued."""
        if time.monotonic() - self._cleaned_up > CLEAN_UP_S:
            try:
                remove_orphaned_placement_groups()
            except Exception:  # whatever Ray raises when its GCS is away; Ray Tune tells whether it stays away
                log.debug("cannot look for orphaned placement groups now", exc_info=True)
            self._cleaned_up = time.monotonic()

    @hook
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Also when Tune retries a trial whose process has died."""
        started = replace(self._known(trial), status="running", reason=None)
        self._trials[started.index] = started
        self._observer(TrialStarted(started.state(self._length)))

    @hook
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """Take in an epoch, or the last report, which says how the trial ended."""
        known = self._known(trial)
        if STATUS in result:
            self._end(replace(known, epochs=result.get(EPOCHS, known.epochs)), result[STATUS], result.get(REASON))
            return
        metrics = EpochMetrics(**{name: result[name] for name in METRICS})
        # An epoch that is reported again replaces the one before: a worker was lost, and the trial resumed.
        earlier = tuple(epoch for epoch in known.epochs if epoch.epoch < metrics.epoch)
        trained = replace(known, epochs=(*earlier, metrics))
        self._trials[trained.index] = trained
        self._observer(TrialEpoch(trained.state(self._length), metrics.score))

    @hook
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial that did not say how it ended was stopped."""
        known = self._known(trial)
        if known.status == "running":
            self._end(known, "stopped")

    @hook
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial's own process died, and again when it was retried."""
        self._end(self._known(trial), "failed", _cause_of_death(trial))

    def _known(self, trial: Any) -> Trial:
        parameters = trial.config
        return self._trials.get(parameters["index"], Trial(index=parameters["index"], values=parameters["values"]))

    def _end(self, trial: Trial, status: TrialStatus, reason: str | None = None) -> None:
        ended = replace(trial, status=status, reason=reason)
        self._trials[ended.index] = ended
        if self._lock.lost.is_set():  # the search belongs to another process now
            return
        finish_trial(self._home, ended)
        write_events(self._home, ended)
        self._observer(TrialEnded(ended.state(self._length)))


def _cause_of_death(trial: Any) -> str:
    """Why a trial's own process died, as far as its log or Ray tell."""
    try:
        text = Path(trial.error_file).read_text(errors="replace")
    except (OSError, TypeError):  # there is none
        text = ""
    if (death := process_death(text)) is not None:
        return f"its process {death.reason}"
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return f"its process on the driver's node died: {lines[-1] if lines else 'Ray gives no reason'}"
