"""What the driver keeps and tells of the trials, as Ray Tune calls it back."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from samples import metrics

from saltray.distributed import search_callback as module
from saltray.distributed.search_callback import SearchCallback
from saltray.progress import Event, TrialEnded, TrialEpoch, TrialStarted
from saltray.runs.history import EpochRecord
from saltray.search.spec import SearchSpec
from saltray.search.trials import Trial, TrialResult, create_trial
from saltray.storage.base import Store

VALUES = {"optim.lr": 1e-3}
CHECKPOINT = "trial-000/checkpoints/epoch-00001/state.pt"


class Search:
    """A search of one trial, and the calls that Ray Tune makes: `start`, `epoch`, `report`, `complete`, `error`."""

    def __init__(self, spec: SearchSpec, home: Store, *known: Trial) -> None:
        self.home = home
        self.lost = threading.Event()
        self.events: list[Event] = []
        lock: Any = SimpleNamespace(lost=self.lost)
        self.callback = SearchCallback(spec, home, known, lock, self.events.append)
        self.trial = SimpleNamespace(config={"index": 0, "values": VALUES}, error_file=None)
        create_trial(home, 0, VALUES)
        home.put(CHECKPOINT, b"state")

    def start(self) -> None:
        self.callback.on_trial_start(1, [], self.trial)

    def report(self, **result: Any) -> None:
        self.callback.on_trial_result(1, [], self.trial, {"trial_id": "x", "objective": 0.5, **result})

    def epoch(self, number: int, score: float | None = 0.5) -> None:
        self.report(**vars(metrics(number, score)))

    def complete(self) -> None:
        self.callback.on_trial_complete(1, [], self.trial)

    def error(self) -> None:
        self.callback.on_trial_error(1, [], self.trial)

    @property
    def now(self) -> Trial:
        (trial,) = self.callback.trials
        return trial

    def result(self) -> TrialResult | None:
        key = "trial-000/result.json"
        return self.home.get_record(key, TrialResult) if self.home.exists(key) else None


@pytest.fixture
def make_search(make_spec: Callable[..., SearchSpec], search_home: Store) -> Callable[..., Search]:
    return lambda *known: Search(make_spec(), search_home, *known)


MakeSearch = Callable[..., Search]


def test_a_trial_is_told_from_its_start_to_its_end(make_search: MakeSearch) -> None:
    search = make_search()
    search.start()
    running = Trial(index=0, values=VALUES)
    search.epoch(1, 0.25)
    search.epoch(2, None)
    history = tuple(EpochRecord(**vars(metrics(number, 0.25)), at=float(number)) for number in (1, 2))
    search.report(status="finished", epochs=history)
    search.complete()
    finished = replace(running, status="finished", epochs=history)
    first, second = replace(running, epochs=(metrics(1, 0.25),)), (metrics(1, 0.25), metrics(2, None))
    assert search.events == [
        TrialStarted(running.state(9)),
        TrialEpoch(first.state(9), 0.25),
        TrialEpoch(replace(running, epochs=second).state(9), None),
        TrialEnded(finished.state(9)),
    ]
    assert search.now == finished
    assert search.result() == TrialResult(status="finished", reason=None, epochs=history)
    assert search.home.exists("tensorboard/trial-000/events.out.tfevents.trial-000")
    assert not search.home.exists(CHECKPOINT)


def test_a_trial_that_does_not_say_how_it_ended_was_stopped(make_search: MakeSearch) -> None:
    search = make_search()
    search.start()
    search.epoch(1)
    search.complete()
    assert search.now.status == "stopped"
    assert search.result() == TrialResult(status="stopped", reason=None, epochs=(metrics(1),))
    assert not search.home.exists(CHECKPOINT)
    assert search.events[-1] == TrialEnded(search.now.state(9))


def test_a_diverged_trial_keeps_its_reason(make_search: MakeSearch) -> None:
    search = make_search()
    search.start()
    search.epoch(1)
    search.report(status="diverged", reason="the loss became NaN")
    search.complete()
    assert (search.now.status, search.now.reason, search.now.epochs) == (
        "diverged",
        "the loss became NaN",
        (metrics(1),),
    )
    assert search.events[-1].failure


def test_a_trial_whose_process_died_for_good_failed_and_can_be_resumed(make_search: MakeSearch, tmp_path: Path) -> None:
    search = make_search()
    (tmp_path / "error.txt").write_text("Failure # 3\nThe actor died: killed by signal 9\n\n")
    search.trial.error_file = f"{tmp_path}/error.txt"
    search.start()
    search.epoch(1)
    search.error()
    assert search.now.status == "failed"
    assert search.now.resumable
    assert search.home.exists(CHECKPOINT)
    assert "its process on the driver's node died: The actor died: killed by signal 9" in str(search.events[-1])


def test_a_trial_whose_process_was_killed_for_memory_says_so(make_search: MakeSearch, tmp_path: Path) -> None:
    search = make_search()
    (tmp_path / "error.txt").write_text("The actor died.\n\tpid: 7\n\tip: 10.0.0.9\nThe node was low on memory.\n")
    search.trial.error_file = f"{tmp_path}/error.txt"
    search.start()
    search.error()
    assert str(search.now.reason).startswith("its process on 10.0.0.9 was killed, most likely because memory was short")


def test_a_death_without_a_reason(make_search: MakeSearch) -> None:
    search = make_search()
    search.start()
    search.error()
    assert str(search.now.reason).endswith("died: Ray gives no reason")


def test_a_trial_that_is_resumed_replaces_the_epochs_after_its_checkpoint(make_search: MakeSearch) -> None:
    search = make_search(Trial(index=0, values=VALUES, status="failed", epochs=(metrics(1, 0.1),), reason="lost"))
    search.start()
    assert isinstance(search.events[-1], TrialStarted)
    assert str(search.events[-1]).endswith("(from epoch 1)")
    assert (search.now.status, search.now.reason) == ("running", None)
    search.epoch(2, 0.2)
    search.epoch(3, 0.3)
    search.start()  # its process died, and its last checkpoint is of epoch 1
    search.epoch(2, 0.25)
    assert search.now.epochs == (metrics(1, 0.1), metrics(2, 0.25))


@pytest.mark.parametrize("reports", [True, False])
def test_after_the_lock_is_lost_nothing_more_is_written(make_search: MakeSearch, reports: bool) -> None:
    search = make_search()
    search.start()
    search.epoch(1)
    search.lost.set()
    if reports:
        search.report(status="finished", epochs=(metrics(1),))
    search.complete()
    assert search.result() is None
    assert search.home.exists(CHECKPOINT)
    assert isinstance(search.events[-1], TrialEpoch)


def test_what_stopped_trials_had_reserved_is_freed_once_a_second(
    make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []
    now = 100.0
    monkeypatch.setattr(module, "remove_orphaned_placement_groups", lambda: calls.append(now))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    search = make_search()
    for now in (100.0, 100.5, 101.5, 102.0):  # noqa: B007
        search.callback.on_step_end(1, [])
    assert calls == [100.0, 101.5]


def test_a_gcs_that_is_away_for_a_moment_does_not_end_the_search(
    make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise RuntimeError("RpcError: the GCS is away")

    monkeypatch.setattr(module, "remove_orphaned_placement_groups", away)
    search = make_search()
    search.callback.on_step_end(1, [])
    assert search.callback.errors == []


def test_what_the_observer_raises_is_kept_for_the_caller(make_search: MakeSearch) -> None:
    search = make_search()
    broken = BrokenPipeError("the terminal is closed")

    def observer(event: Event) -> None:
        raise broken

    search.callback._observer = observer
    with pytest.raises(BrokenPipeError):
        search.start()
    search.epoch(1)
    search.complete()
    search.error()  # as Ray Tune does with a trial whose hook has failed
    assert search.callback.errors == [broken]
    assert search.result() is None
