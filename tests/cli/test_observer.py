"""Events on the terminal: each as a line, the split as a table, the trials of a search live."""

import io
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pytest
from rich.console import Console, Group

from saltray import progress
from saltray.cli.jobs import finished_after
from saltray.cli.observer import TerminalObserver
from saltray.cli.trials import LIVE_ROWS
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
    MLflowFailed,
    PredictionPlanned,
    PretrainEpoch,
    PretrainFinishedBefore,
    PretrainNote,
    PretrainPlanned,
    PretrainResumed,
    PretrainWaiting,
    Published,
    RangeTestPlanned,
    RayConnected,
    RunPlanned,
    SearchPlanned,
    SearchValuesTaken,
    ServingKept,
    ServingPlanned,
    ServingStarted,
    ServingUpdated,
    ServingWaiting,
    StoreMustBeShared,
    TilesClipped,
    TilesImported,
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
    MLflowFailed("no [answer]"),
    TrialStarted(state(0)),
    TrialEpoch(state(0), 0.61),
    TrialEnded(state(0, "finished")),
    TrialEnded(state(0, "stopped")),
    TrialEnded(state(0, "diverged", None, reason="it became [NaN]")),
    TrialEnded(state(0, "failed", None, reason="out of memory")),
    TilesClipped(("[a].png",)),
    PredictionPlanned(tiles=15, ensemble="r1 v1", where="Ray on this machine", workers=2, device="CPU"),
    ServingPlanned(ensemble="r1 v1", where="Ray on this machine", replicas=1, max_replicas=2, device="CPU"),
    ServingStarted(ensemble="r1 v1", url="http://127.0.0.1:8000/", height=101, width=101, follows=True),
    ServingWaiting(2.0),
    ServingUpdated("r1 v2"),
    ServingKept("r1 v2", "v3 is [damaged]"),
]
SILENT: list[Event] = [
    TilesImported(1, 2),  # told now and then
    TilesPredicted(1, 2),
    FoldStarted(3),  # its first epoch tells as much
    FoldsMissing("r1", (1,)),  # so does the result
    RayConnected("Ray on this machine", "/tmp/ray/s/logs"),  # told at the end
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


def test_the_logs_of_ray_are_named_at_the_end() -> None:
    console = make_console()
    observer = TerminalObserver(console)
    observer.end()
    observer(RayConnected("Ray on this machine", "/tmp/ray/[s]/logs"))
    assert console.export_text(clear=False) == ""
    observer.end()
    observer.end()
    assert console.export_text() == "Ray logs  /tmp/ray/[s]/logs\n"


def test_every_kind_of_event_is_here() -> None:
    kinds = {kind for kind in vars(progress).values() if isinstance(kind, type) and issubclass(kind, Event)}
    assert {type(event) for event in [PLANNED, *LINES, *SILENT]} == kinds - {Event}


@pytest.mark.parametrize("event", LINES, ids=lambda event: type(event).__name__)
def test_an_event_is_a_line(event: Event) -> None:
    """Whole and literally, also on a narrow terminal, which wraps it itself."""
    assert shown([event], width=40).export_text() == f"{event}\n"


def test_without_a_terminal_some_events_say_nothing_new() -> None:
    assert shown(SILENT).export_text() == ""


def test_the_split_is_a_table_below_its_run() -> None:
    line, *table = rows_of(shown([PLANNED]))
    assert line == [str(PLANNED)]
    assert table == [["split"], ["fold", "tiles", "empty", "coverage"], ["0", "12", "75.0%", "20.1%"]]


@pytest.mark.parametrize("event", LINES, ids=lambda event: type(event).__name__)
def test_failures_are_red_and_what_is_finished_is_green(event: Event) -> None:
    printed = shown([event], terminal=True).export_text(styles=True)
    failed = isinstance(event, FoldFailed | ServingKept) or (
        isinstance(event, TrialEnded) and event.trial.reason is not None
    )
    finished = isinstance(event, FoldFinished) or (isinstance(event, TrialEnded) and event.trial.status == "finished")
    assert event.failure == failed
    assert (RED in printed) == failed
    assert (GREEN in printed) == finished


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Session:
    """An observer on a console, and its clock."""

    console: Console
    observer: TerminalObserver
    clock: Clock

    @classmethod
    def start(cls, *, terminal: bool = True, width: int = 160, height: int = 50, encoding: str = "utf-8") -> "Session":
        console = make_console(terminal=terminal, width=width, height=height, encoding=encoding)
        clock = Clock()
        return cls(console, TerminalObserver(console, clock), clock)

    def written(self) -> str:
        """All that the terminal got, with its control codes."""
        file = self.console.file
        assert isinstance(file, io.TextIOWrapper)
        assert isinstance(file.buffer, io.BytesIO)
        return file.buffer.getvalue().decode(self.console.encoding)

    def tell(self, *events: Event, at: float = 0.0) -> None:
        self.clock.now = at
        for event in events:
            self.observer(event)

    def frame(self, at: float | None = None) -> list[str]:
        """What would be drawn now."""
        if at is not None:
            self.clock.now = at
        view = self.observer._view
        if view is None:
            return []
        other = make_console(
            terminal=True,
            width=self.console.width,
            height=self.console.height,
            encoding=self.console.encoding,
            color=False,
        )
        lines = other.render_lines(Group(*view.draw(self.clock(), self.console.height)), pad=False)
        return ["".join(segment.text for segment in line) for line in lines]

    def lines(self) -> list[str]:
        """All lines that were drawn, without control codes."""
        text = self.written().replace("\r", "\n")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).splitlines()

    def table(self, at: float | None = None) -> list[dict[str, str]]:
        """The rows of the live table, by the names of the columns."""
        cut = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in self.frame(at)]
        head, *rows = [cells for cells in cut if cells]
        return [dict(zip(head, cells, strict=True)) for cells in rows]

    def bar(self, at: float | None = None) -> str:
        """The words of the bar."""
        return re.sub("^[-━╸╺ ]*", "", self.frame(at)[-1]).strip()


@pytest.fixture
def session() -> Iterator[Session]:
    session = Session.start()
    yield session
    session.observer.close()


# The folds of a run


FOUND = CapacityFound(where="here", job="fold", needs="1 CPU", jobs=3, concurrency=2, ready=2, folds=(0, 1, 3))


def epoch(fold: int, number: int, score: float | None = 0.5) -> FoldEpoch:
    return FoldEpoch(fold=fold, epoch=number, epochs=8, loss=0.25, score=score, images_per_second=81.6)


def test_a_fold_is_queued_then_starts_trains_and_is_done(session: Session) -> None:
    def states() -> list[str]:
        return [row["state"] for row in session.table()]

    session.tell(PLANNED, FOUND)
    assert [row["fold"] for row in session.table()] == ["0", "1", "3"]
    assert states() == ["queued", "queued", "queued"]
    session.tell(FoldStarted(0), FoldStarted(1))
    assert states() == ["starting", "starting", "queued"]
    session.tell(epoch(0, 1), FoldResumed(1, 5))
    assert states() == ["training", "starting", "queued"]
    session.tell(FoldFinished(fold=0, score=0.6, seconds=9, queued=1), FoldStarted(3))
    session.tell(FoldFailed(fold=1, reason="it broke", queued=0))
    assert states() == ["done", "failed", "starting"]
    assert session.table()[0]["epoch"] == "8/8"


@pytest.mark.parametrize("lost", [FoldResumed(0, 1), FoldWaiting(0, 5.0)], ids=["resumed", "waiting"])
def test_a_fold_that_loses_a_worker_is_retried(session: Session, lost: Event) -> None:
    session.tell(PLANNED, FOUND, FoldStarted(0), epoch(0, 1), epoch(0, 2), lost)
    assert session.table()[0]["state"] == "retrying"
    assert str(lost) in session.console.export_text()
    session.tell(epoch(0, 2))
    assert session.table()[0]["state"] == "training"


def test_a_row_has_the_last_and_the_best_score(session: Session) -> None:
    session.tell(PLANNED, FOUND, FoldStarted(0), epoch(0, 1, 0.61), epoch(0, 2, 0.58), epoch(0, 3, None), at=7.0)
    assert session.table()[0] == {
        "fold": "0",
        "state": "training",
        "epoch": "3/8",
        "images/s": "82",
        "loss": "0.2500",
        "score": "0.5800",
        "best": "0.6100",
        "left": "0 s",
    }


def test_the_time_left_is_that_of_an_epoch_but_for_the_first(session: Session) -> None:
    session.tell(PLANNED, FOUND, FoldStarted(0), FoldStarted(1))
    assert session.bar() == "0%  run r1: 0 of 24 epochs  0 of 3 folds ended"
    session.tell(epoch(0, 1), at=30.0)
    assert session.table()[0]["left"] == "4 min"  # 7 epochs, at the only pace known
    session.tell(epoch(0, 2), at=40.0)
    assert session.table()[0]["left"] == "60 s"
    session.tell(epoch(0, 3), at=50.0)
    assert session.table()[0]["left"] == "50 s"
    assert session.table(at=54.0)[0]["left"] == "46 s"  # it counts down
    assert session.table(at=90.0)[0]["left"] == "40 s"  # but not more than an epoch
    # Fold 3 waits for fold 0, and then trains 8 epochs of 10 s; fold 1 takes less.
    assert session.bar(at=50.0) == "12%  run r1: 3 of 24 epochs  0 of 3 folds ended  2 min left"


@pytest.mark.parametrize(
    ("running", "queued", "slots", "seconds"),
    [([5, 9], [], 2, 9), ([5, 9], [3], 2, 9), ([5, 9], [6, 2], 2, 11), ([], [4, 4, 4], 2, 8), ([], [], 2, 0)],
)
def test_the_whole_is_done_when_the_last_is(
    running: list[float], queued: list[float], slots: int, seconds: float
) -> None:
    assert finished_after(running, queued, slots) == seconds


def test_lines_stay_and_the_table_goes(session: Session) -> None:
    session.tell(PLANNED, FOUND, FoldStarted(0), epoch(0, 1), FoldNote(0, "computes in fp32"))
    session.tell(FoldFailed(fold=1, reason="it broke", queued=0))
    assert session.frame()
    session.tell(FoldsMissing("r1", (1,)))
    assert session.frame() == []
    session.tell(DataNote("after it"))
    lines = session.lines()
    for line in ("fold 0  computes in fp32", "fold 1  failed; the others continue: it broke"):
        assert line in lines
    assert str(epoch(0, 1)) not in lines
    assert lines[-1] == "data set: after it"


def test_after_the_last_fold_the_bar_says_what_is_done(session: Session) -> None:
    session.tell(PLANNED, FOUND, *(FoldFinished(fold=fold, score=0.6, seconds=9, queued=0) for fold in (0, 1, 3)))
    assert session.bar() == "100%  run r1: scores and publishes"
    session.tell(Published("s/ensembles/r1/v1"))
    assert session.frame() == []


def test_where_folds_failed_the_table_goes_with_the_last(session: Session) -> None:
    session.tell(PLANNED, FOUND, *(FoldFinished(fold=fold, score=0.6, seconds=9, queued=0) for fold in (0, 1)))
    session.tell(FoldFailed(fold=3, reason="it broke", queued=0))
    assert session.frame() == []


def test_a_short_window_shows_the_folds_that_run() -> None:
    session = Session.start(height=10)
    session.tell(PLANNED, replace(FOUND, folds=tuple(range(9))), FoldStarted(4), FoldStarted(7))
    session.tell(FoldFailed(fold=2, reason="it broke", queued=0))
    assert [row["fold"] for row in session.table()] == ["2", "4", "7"]
    assert session.bar().endswith("1 of 9 folds ended  6 not shown")
    assert len(session.frame()) < 10
    session.observer.close()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (30, ["fold", "state", "epoch", "score"]),  # cut, as nothing else can go
        (40, ["fold", "state", "epoch", "score"]),
        (44, ["fold", "state", "epoch", "score", "left"]),
        (80, ["fold", "state", "epoch", "images/s", "loss", "score", "best", "left"]),
        (160, ["fold", "state", "epoch", "images/s", "loss", "score", "best", "left"]),
        (200, ["fold", "state", "epoch", "images/s", "loss", "score", "best", "left"]),
    ],
)
def test_it_fits_every_width(width: int, columns: list[str], encoding: str) -> None:
    session = Session.start(width=width, encoding=encoding)
    session.tell(PLANNED, FOUND, FoldStarted(0), epoch(0, 1), FoldStarted(1))
    session.tell(epoch(0, 2), at=40.0)
    frame = session.frame()
    session.observer.close()
    assert max(map(len, frame)) <= width
    assert len(frame[-1].rstrip()) <= width - len("^C")  # the terminal echoes it, in the same row
    if width >= 40:
        assert re.split(r"[\s|┃]+", frame[1].strip(" |┃")) == columns
        assert "8%" in frame[-1]
    if width >= 80:
        assert "run r1: 2 of 24 epochs" in frame[-1]
    assert ("━" in "".join(frame)) == (encoding == "utf-8")
    assert "".join(frame).isascii() == (encoding == "ascii")


def test_no_color_is_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    session = Session.start()
    session.tell(PLANNED, FOUND, FoldStarted(0), epoch(0, 1))
    session.observer.close()
    written = session.written()
    assert "training" in written
    assert re.findall(r"\x1b\[(?:[0-9]+;)*[349][0-9][;m]", written) == []


def test_a_terminal_without_a_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    session = Session.start()
    session.tell(PLANNED, FOUND, FoldStarted(0), epoch(0, 1))
    assert session.console.export_text().endswith(f"{epoch(0, 1)}\n")


def test_a_close_leaves_the_terminal_as_it_was(session: Session) -> None:
    before = sys.stdout
    session.tell(PLANNED, FOUND, FoldStarted(0))
    session.observer.close()
    session.observer.close()  # as after an end of its own
    hidden, shown = (session.written().rfind(code) for code in ("\x1b[?25l", "\x1b[?25h"))
    assert 0 <= hidden < shown
    assert sys.stdout is before


def test_a_narrower_window_leaves_no_row_behind(session: Session) -> None:
    """The terminal has broken each line that no longer fits: its rows are erased too."""
    session.tell(PLANNED, FOUND, FoldStarted(0))
    drawn = [len(line) for line in session.frame()]
    before = len(session.written())
    session.console.width = 20
    session.tell(FoldsMissing("r1", (1,)))
    ups = sum(-(-line // 20) for line in drawn) - 1
    first_frame = session.written()[before:].split("fold")[0]
    assert first_frame.count("\x1b[1A") == ups


# A pretraining


def test_a_pretraining_is_one_row(session: Session) -> None:
    found = CapacityFound(where="here", job="pretraining", needs="1 CPU", jobs=1, concurrency=1, ready=1)
    session.tell(PRETRAIN_PLANNED, found)
    assert session.table()[0]["state"] == "starting"
    session.tell(PretrainEpoch(epoch=1, epochs=8, loss=0.0712, images_per_second=812.3), at=9.0)
    session.tell(PretrainEpoch(epoch=2, epochs=8, loss=0.0612, images_per_second=812.3), at=14.0)
    assert session.table() == [{"name": "p1", "state": "training", "epoch": "2/8", "images/s": "812", "loss": "0.0612"}]
    assert session.bar() == "25%  pretraining p1: 2 of 8 epochs  30 s left"
    session.tell(PretrainResumed(1), at=20.0)
    assert (session.table()[0]["state"], session.table()[0]["epoch"]) == ("retrying", "1/8")
    session.tell(PretrainEpoch(epoch=8, epochs=8, loss=0.05, images_per_second=812.3), at=60.0)
    assert session.frame() == []


# Tiles


def test_a_bar_counts_the_tiles_predicted(session: Session) -> None:
    session.tell(PredictionPlanned(tiles=1200, ensemble="r1 v1", where="here", workers=2, device="CPU"))
    assert session.bar() == "0%  predicted 0 of 1,200 tiles"
    session.tell(TilesPredicted(400, 1200), at=20.0)
    assert session.bar() == "33%  predicted 400 of 1,200 tiles  40 s left"
    assert session.bar(at=25.0).endswith("35 s left")
    session.tell(TilesPredicted(1200, 1200), at=60.0)
    assert session.frame() == []


def test_a_bar_counts_the_tiles_read_until_something_else_happens(session: Session) -> None:
    session.tell(TilesImported(10_000, 25_000), at=10.0)
    assert session.bar() == "40%  read 10,000 of 25,000 tiles"
    session.tell(TilesImported(20_000, 25_000), at=20.0)
    assert session.bar() == "80%  read 20,000 of 25,000 tiles  5 s left"
    session.tell(PLANNED)
    assert session.frame() == []


@pytest.mark.parametrize("kind", [TilesImported, TilesPredicted])
def test_a_log_file_counts_tiles_now_and_then(kind: type[TilesImported | TilesPredicted]) -> None:
    session = Session.start(terminal=False)
    for second in range(101):  # 1 % a second, then the same in a hundredth of the time
        session.tell(kind(10 * second, 1000), at=second)
    lines = session.console.export_text().splitlines()
    assert lines == [str(kind(done, 1000)) for done in range(100, 1001, 100)]
    fast, slow = Session.start(terminal=False), Session.start(terminal=False)
    for step in range(101):
        fast.tell(kind(10 * step, 1000), at=step / 100)
        slow.tell(kind(step, 1000), at=100.0 * step)
    assert fast.console.export_text() == ""
    assert slow.console.export_text() == f"{kind(100, 1000)}\n"


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


def test_on_a_terminal_the_trials_are_a_live_table(session: Session) -> None:
    session.tell(*SEARCH[:3])
    assert [list(row.values()) for row in session.table()] == [
        ["trial-002", "0.001", "3/60", "0.7124", "2", "running"],
        ["trial-000", "0.001", "3/60", "0.6000", "2", "finished"],
        ["trial-001", "0.001", "3/60", "", "", "failed"],
    ]
    assert session.bar() == "12%  2 of up to 16 trials ended"
    session.tell(TrialEnded(state(2, "finished")), at=20.0)
    assert session.bar(at=30.0) == "18%  3 of up to 16 trials ended  4 min left"
    session.tell(TrialsEnded())
    assert session.frame() == []
    session.tell(FoldNote(0, "after the search"))  # the table is removed for good
    assert session.console.export_text(clear=False).endswith("fold 0  after the search\n")
    assert CYAN in shown([*SEARCH[:3], TrialsEnded()], terminal=True).export_text(styles=True)


def test_a_trial_that_diverged_is_a_line_above_the_table(session: Session) -> None:
    session.tell(*SEARCH)
    assert [line for line in session.lines() if line.startswith("trial-")] == [str(SEARCH[3])]


def test_a_long_live_table_shows_those_that_run_and_the_best(session: Session) -> None:
    ended = tuple(state(at, "finished", at / 1000) for at in range(40))
    running = tuple(state(at) for at in range(40, 43))
    session.tell(TrialsRunning(known=ended + running, limit=50, fields=("optim.lr",)))
    assert session.bar() == f"80%  40 of up to 50 trials ended  {43 - LIVE_ROWS} not shown"
    names = [row["trial"] for row in session.table()]
    assert names == [f"trial-{at:03d}" for at in [40, 41, 42, *range(39, 39 - LIVE_ROWS + 3, -1)]]


def test_on_a_narrow_terminal_the_trials_keep_their_scores() -> None:
    session = Session.start(width=40)
    session.tell(*SEARCH[:3])
    assert [*session.table()[0]] == ["trial", "epochs", "score"]
    session.observer.close()


def test_a_second_search_starts_anew(session: Session) -> None:
    session.tell(*SEARCH, TrialsRunning(known=(state(9),), limit=3, fields=("optim.lr",)))
    assert session.bar() == "0%  0 of up to 3 trials ended"
    assert [row["trial"] for row in session.table()] == ["trial-009"]
