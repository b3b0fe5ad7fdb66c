"""Events on the terminal: each as a line, the split as a table, the trials of a search live."""

import logging
from collections.abc import Iterable

import pytest
from rich.console import Console

import saltray.progress
from saltray.cli.observer import LIVE_ROWS, TerminalObserver
from saltray.data.folds import FoldBalance
from saltray.progress import (
    CapacityFound,
    Event,
    FoldEpoch,
    FoldFailed,
    FoldFinished,
    FoldNote,
    FoldResumed,
    FoldsFinishedBefore,
    FoldStarted,
    FoldWaiting,
    LockTakenOver,
    PredictionPlanned,
    Published,
    RangeTestPlanned,
    RunPlanned,
    SearchPlanned,
    SearchValuesTaken,
    StoreMustBeShared,
    TilesWritten,
    TrialEnded,
    TrialEpoch,
    TrialsEnded,
    TrialsRunning,
    TrialsStartedBefore,
    TrialStarted,
    TrialState,
    TrialStatus,
    log_event,
)

from .conftest import make_console, rows_of

RED, GREEN, CYAN = "\x1b[31m", "\x1b[32m", "\x1b[36m"


def state(
    index: int,
    status: TrialStatus = "running",
    score: float | None = 0.7124,
    epochs: int = 3,
    reason: str | None = None,
) -> TrialState:
    return TrialState(
        name=f"trial-{index:03d}",
        status=status,
        values={"optim.lr": 0.001},
        epochs=epochs,
        length=60,
        score=score,
        best_epoch=None if score is None else 2,
        reason=reason,
    )


CAPACITY = CapacityFound(
    where="Ray on this machine", job="fold", needs="1 rank of 1 CPU", jobs=5, concurrency=2, ready=2
)
SPLIT = [FoldBalance(fold=0, tiles=12, positives=3, empty_share=0.75, coverage=0.201)]
EVENTS: list[tuple[Event, str]] = [
    (TilesWritten(60, "f"), "wrote 60 synthetic tiles to f"),
    (LockTakenOver("process 7 on h"), "took over the stale lock of process 7 on h"),
    (
        SearchValuesTaken("s/searches/s1", "trial-001", {"optim.lr": 0.001}),
        "from s/searches/s1, trial-001: optim.lr 0.001",
    ),
    (
        RunPlanned(
            run="r1",
            tiles=60,
            height=101,
            width=101,
            input_size=128,
            epochs=8,
            steps=6,
            batch_size=8,
            ranks=2,
            split=SPLIT,
        ),
        "run r1: 60 tiles of 101x101, padded to 128; 8 epochs of up to 6 steps of 8 tiles (4 a rank)",
    ),
    (
        SearchPlanned(
            search="s1",
            tiles=60,
            folds=(0, 1),
            held_out=(12, 13),
            trials=16,
            epochs=9,
            steps=12,
            batch_size=8,
            space={"optim.lr": "log:1e-05:0.01"},
            rungs=(1, 3),
        ),
        "search s1: 60 tiles, folds 0, 1 held out (12, 13 tiles); "
        "up to 16 trials of 9 epochs of 12 steps of 8 tiles\n"
        "  optim.lr in log:1e-05:0.01\n"
        "a trial continues after epoch 1, 3 only if it is among the better third there",
    ),
    (RangeTestPlanned(100, 8, 1e-5, 1.0), "range test: 100 steps of 8 tiles, learning rate 1e-05 to 1"),
    (FoldsFinishedBefore((0, 2)), "finished before: fold 0, 2"),
    (TrialsStartedBefore(4, 3), "started before: 4 trials, of which 3 have ended and are kept"),
    (CAPACITY, "on Ray on this machine: a fold needs 1 rank of 1 CPU; 2 of 5 folds at once, 3 queued"),
    (StoreMustBeShared("/s"), "the store is a folder: nodes that join later must mount it, too, at /s"),
    (FoldStarted(3), ""),
    (
        FoldWaiting(3, 5.2),
        "fold 3  has waited 5 min for its nodes; `ray status` on the head node says why",
    ),
    (FoldResumed(3, 12), "fold 3  resumes after epoch 12, from its last checkpoint"),
    (FoldNote(3, "computes in [fp32]"), "fold 3  computes in [fp32]"),
    (
        FoldEpoch(fold=3, epoch=7, epochs=60, loss=1.5, score=0.3, images_per_second=812.3),
        "fold 3  epoch   7/60  loss 1.5000  score 0.3000  812 images/s",
    ),
    (
        FoldEpoch(fold=3, epoch=7, epochs=60, loss=1.5, score=None, images_per_second=812.3),
        "fold 3  epoch   7/60  loss 1.5000  812 images/s",
    ),
    (FoldFinished(fold=3, score=0.55, seconds=17.2, queued=0), "fold 3  done  score 0.5500  17 s"),
    (
        FoldFailed(fold=3, reason="[CUDA] out of memory", queued=1),
        "fold 3  failed; the others continue  (1 queued): [CUDA] out of memory",
    ),
    (Published("s/ensembles/r1/v1"), ""),
    (TrialsRunning(known=(), limit=16, fields=("optim.lr",)), ""),
    (TrialStarted(state(0, score=None, epochs=0)), "trial-000  optim.lr 0.001"),
    (TrialStarted(state(0)), "trial-000  optim.lr 0.001  (from epoch 3)"),
    (TrialEpoch(state(0), 0.61), "trial-000  epoch   3/60  score 0.6100"),
    (TrialEpoch(state(0), None), "trial-000  epoch   3/60"),
    (TrialEnded(state(0, "finished")), "trial-000  finished after epoch 3  best score 0.7124 in epoch 2"),
    (
        TrialEnded(state(0, "diverged", None, reason="it became NaN")),
        "trial-000  diverged after epoch 3: it became NaN",
    ),
    (TrialsEnded(), ""),
    (
        PredictionPlanned(tiles=15, ensemble="r1 v1", where="Ray on this machine", workers=2, device="CPU"),
        "predicting 15 tiles with r1 v1 on Ray on this machine: 2 CPU workers",
    ),
]


def shown(events: Iterable[Event], *, terminal: bool = False) -> Console:
    console = make_console(terminal=terminal)
    observer = TerminalObserver(console)
    for event in events:
        observer(event)
    return console


def test_every_kind_of_event_is_here() -> None:
    kinds = {kind for kind in vars(saltray.progress).values() if isinstance(kind, type) and issubclass(kind, Event)}
    assert {type(event) for event, _ in EVENTS} == kinds - {Event}


@pytest.mark.parametrize(("event", "text"), EVENTS, ids=lambda value: type(value).__name__)
def test_an_event_is_a_line(event: Event, text: str) -> None:
    printed = shown([event]).export_text()
    assert printed.startswith(f"{text}\n" if text else "")
    if isinstance(event, RunPlanned):
        assert printed != f"{text}\n"
    else:
        assert printed == (f"{text}\n" if text else "")


def test_the_split_is_a_table_below_its_run() -> None:
    (planned,) = (event for event, _ in EVENTS if isinstance(event, RunPlanned))
    _, *table = rows_of(shown([planned]))
    assert table == [["split"], ["fold", "tiles", "empty", "coverage"], ["0", "12", "75.0%", "20.1%"]]


@pytest.mark.parametrize(("event", "text"), EVENTS, ids=lambda value: type(value).__name__)
def test_failures_are_red_and_what_is_done_is_green(event: Event, text: str) -> None:
    printed = shown([event], terminal=True).export_text(styles=True)
    failed = isinstance(event, FoldFailed) or (isinstance(event, TrialEnded) and event.trial.status == "diverged")
    done = isinstance(event, FoldFinished) or (isinstance(event, TrialEnded) and event.trial.status == "finished")
    assert event.failure == failed
    assert (RED in printed) == failed
    assert (GREEN in printed) == done


@pytest.mark.parametrize(("ready", "text"), [(2, ""), (1, "\n1 can start now; the cluster takes some minutes to grow")])
@pytest.mark.parametrize(
    ("job", "rest"),
    [
        ("fold", ": a fold needs N; 2 of 2 folds at once"),
        ("trial", ": a trial needs N; 2 at once"),
        ("test", ": it needs N"),
    ],
)
def test_capacity(job: str, rest: str, ready: int, text: str) -> None:
    event = CapacityFound(where="W", job=job, needs="N", jobs=2, concurrency=2, ready=ready)  # type: ignore[arg-type]
    grows = text if job == "fold" else ""
    assert str(event) == f"on W{rest}{grows}"


# The trials of a search


SEARCH = [
    TrialsRunning(known=(state(0, "finished", 0.6), state(1, "failed", None)), limit=16, fields=("optim.lr",)),
    TrialStarted(state(2, score=None, epochs=0)),
    TrialEpoch(state(2), 0.7),
    TrialEnded(state(2, "diverged", None, reason="the loss became NaN")),
    TrialsEnded(),
]


def test_without_a_terminal_nothing_is_lost() -> None:
    assert shown(SEARCH).export_text().splitlines() == [str(event) for event in SEARCH[1:4]]


def test_on_a_terminal_the_trials_are_a_live_table() -> None:
    console = make_console(terminal=True)
    observer = TerminalObserver(console)
    for event in SEARCH[:3]:
        observer(event)
    observer(TrialsEnded())  # draws the table a last time, then removes it
    rows = rows_of(console)
    assert [row for row in rows if row[0].startswith("trial-") and len(row) == 1] == []
    assert rows[-5:] == [
        ["2 of up to 16 trials ended"],
        ["trial", "optim.lr", "epochs", "score", "in epoch", ""],
        ["trial-002", "0.001", "3/60", "0.7124", "2", "running"],
        ["trial-000", "0.001", "3/60", "0.6000", "2", "finished"],
        ["trial-001", "0.001", "3/60", "", "", "failed"],
    ]
    assert CYAN in console.export_text(styles=True)
    observer(FoldNote(0, "after the search"))  # the table is removed for good
    assert console.export_text().endswith("fold 0  after the search\n")


def test_a_long_live_table_shows_those_that_run_and_the_best() -> None:
    ended = tuple(state(at, "finished", at / 1000) for at in range(40))
    running = tuple(state(at) for at in range(40, 43))
    rows = rows_of(
        shown([TrialsRunning(known=ended + running, limit=50, fields=("optim.lr",)), TrialsEnded()], terminal=True)
    )
    assert rows[-LIVE_ROWS - 2] == [f"40 of up to 50 trials ended, {43 - LIVE_ROWS} not shown"]
    names = [row[0] for row in rows[-LIVE_ROWS:]]
    assert names == [f"trial-{at:03d}" for at in [40, 41, 42, *range(39, 39 - LIVE_ROWS + 3, -1)]]


def test_a_second_search_starts_anew() -> None:
    again = TrialsRunning(known=(state(9),), limit=3, fields=("optim.lr",))
    console = shown([*SEARCH, again, TrialsEnded()], terminal=True)
    rows = rows_of(console)
    assert rows[-3] == ["0 of up to 3 trials ended"]
    assert [row[0] for row in rows[-2:]] == ["trial", "trial-009"]


def test_the_default_observer_logs_the_same_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "saltray")
    for event in SEARCH[1:4]:
        log_event(event)
    assert [record.getMessage() for record in caplog.records] == [str(event) for event in SEARCH[1:4]]
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING"]
