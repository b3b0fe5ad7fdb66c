"""Events on the terminal: each as a line, the split as a table, the trials of a search live."""

from collections.abc import Iterable

import pytest
from rich.console import Console

from saltray import progress
from saltray.cli.observer import LIVE_ROWS, TerminalObserver
from saltray.data.folds import FoldBalance
from saltray.progress import (
    CapacityFound,
    DataNote,
    Event,
    FoldEpoch,
    FoldFailed,
    FoldFinished,
    FoldNote,
    FoldResumed,
    FoldsFinishedBefore,
    FoldsMissing,
    FoldStarted,
    FoldWaiting,
    LockTakenOver,
    PredictionPlanned,
    PretrainEpoch,
    PretrainFinishedBefore,
    PretrainNote,
    PretrainPlanned,
    PretrainResumed,
    PretrainWaiting,
    Published,
    RangeTestPlanned,
    RunPlanned,
    SearchPlanned,
    SearchValuesTaken,
    StoreMustBeShared,
    TilesClipped,
    TilesPredicted,
    TilesWritten,
    TrialEnded,
    TrialEpoch,
    TrialsEnded,
    TrialsRunning,
    TrialsStartedBefore,
    TrialStarted,
    TrialState,
    TrialStatus,
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


SPLIT = [FoldBalance(fold=0, tiles=12, positives=3, empty_share=0.75, coverage=0.201)]
PLANNED = RunPlanned(
    run="r1", tiles=60, height=101, width=101, input_size=128, epochs=8, steps=6, batch_size=8, ranks=2, split=SPLIT
)
SEARCH_PLANNED = SearchPlanned(
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
)
PRETRAIN_PLANNED = PretrainPlanned(
    name="p1",
    tiles=60,
    height=101,
    width=101,
    input_size=128,
    hidden=29,
    patch=16,
    epochs=8,
    steps=6,
    batch_size=8,
    ranks=2,
)
LINES: list[Event] = [
    TilesWritten(60, "f"),
    DataNote("12-bit [range]"),
    LockTakenOver("process 7 on h"),
    SearchValuesTaken("s/searches/s1", "trial-001", {"optim.lr": 0.001}),
    SEARCH_PLANNED,
    RangeTestPlanned(100, 8, 1e-5, 1.0),
    FoldsFinishedBefore((0, 2)),
    TrialsStartedBefore(4, 3),
    CapacityFound(where="Ray on this machine", job="fold", needs="1 CPU", jobs=5, concurrency=2, ready=1),
    StoreMustBeShared("/s"),
    PRETRAIN_PLANNED,
    PretrainFinishedBefore("p1"),
    PretrainWaiting(5.2),
    PretrainResumed(12),
    PretrainNote("computes in [fp32]"),
    PretrainEpoch(epoch=7, epochs=60, loss=0.0712, images_per_second=812.3),
    FoldWaiting(3, 5.2),
    FoldResumed(3, 12),
    FoldNote(3, "computes in [fp32]: " + "word " * 100),
    FoldEpoch(fold=3, epoch=7, epochs=60, loss=1.5, score=0.3, images_per_second=812.3),
    FoldFinished(fold=3, score=0.55, seconds=17.2, queued=0),
    FoldFailed(fold=3, reason="[CUDA] out of memory", queued=1),
    TrialStarted(state(0)),
    TrialEpoch(state(0), 0.61),
    TrialEnded(state(0, "finished")),
    TrialEnded(state(0, "stopped")),
    TrialEnded(state(0, "diverged", None, reason="it became [NaN]")),
    TrialEnded(state(0, "failed", None, reason="out of memory")),
    TilesClipped(("[a].png",)),
    PredictionPlanned(tiles=15, ensemble="r1 v1", where="Ray on this machine", workers=2, device="CPU"),
]
SILENT: list[Event] = [
    TilesPredicted(1, 2),
    FoldStarted(3),  # its first epoch tells as much
    FoldsMissing("r1", (1,)),  # so does the result
    Published("s/ensembles/r1/v1"),  # and so does the result
    TrialsRunning(known=(state(1),), limit=16, fields=("optim.lr",)),
    TrialsEnded(),
]


def shown(events: Iterable[Event], *, terminal: bool = False, width: int = 1000) -> Console:
    console = make_console(terminal=terminal, width=width)
    observer = TerminalObserver(console)
    for event in events:
        observer(event)
    return console


def test_every_kind_of_event_is_here() -> None:
    kinds = {kind for kind in vars(progress).values() if isinstance(kind, type) and issubclass(kind, Event)}
    assert {type(event) for event in [PLANNED, *LINES, *SILENT]} == kinds - {Event}


@pytest.mark.parametrize("event", LINES, ids=lambda event: type(event).__name__)
def test_an_event_is_a_line(event: Event) -> None:
    """Whole and literally, also on a narrow terminal, which wraps it itself."""
    assert shown([event], width=40).export_text() == f"{event}\n"


def test_some_events_say_nothing_new() -> None:
    assert shown(SILENT).export_text() == ""


def test_the_split_is_a_table_below_its_run() -> None:
    line, *table = rows_of(shown([PLANNED]))
    assert line == [str(PLANNED)]
    assert table == [["split"], ["fold", "tiles", "empty", "coverage"], ["0", "12", "75.0%", "20.1%"]]


@pytest.mark.parametrize("event", LINES, ids=lambda event: type(event).__name__)
def test_failures_are_red_and_what_is_finished_is_green(event: Event) -> None:
    printed = shown([event], terminal=True).export_text(styles=True)
    failed = isinstance(event, FoldFailed) or (isinstance(event, TrialEnded) and event.trial.reason is not None)
    finished = isinstance(event, FoldFinished) or (isinstance(event, TrialEnded) and event.trial.status == "finished")
    assert event.failure == failed
    assert (RED in printed) == failed
    assert (GREEN in printed) == finished


def test_on_a_terminal_one_line_counts_the_tiles_predicted() -> None:
    events = [TilesPredicted(500, 1200), TilesPredicted(1200, 1200)]
    assert shown(events, terminal=True).export_text() == (
        "predicted 500 of 1,200 tiles\rpredicted 1,200 of 1,200 tiles\n"
    )


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
