"""How far runs are, on the terminal."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from command import Saltray, check_refusal
from samples import EVALUATION, ensemble_manifest, metrics

from saltray.cli.status import duration, print_pretrainings, print_run, print_runs
from saltray.config import Config, PretrainConfig
from saltray.ensemble.postprocess import Postprocess
from saltray.runs.history import EpochRecord
from saltray.runs.records import FoldResult, PretrainManifest, RunManifest
from saltray.runs.status import FoldState, FoldStatus, PretrainStatus, RunState, RunStatus, RunSummary
from saltray.storage.lock import Owner
from saltray.storage.uri import open_store

from .conftest import make_console

NOW = 1_800_000_000.0
RED = "\x1b[31m"


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


def owner(age: float | None = 3, *, released: bool = False) -> Owner:
    return Owner(host="h", pid=7, beat=3, at=None if age is None else NOW - age, released=released)


def epochs(*scores: float | None, age: float = 60) -> tuple[EpochRecord, ...]:
    each = (metrics(number, score) for number, score in enumerate(scores, start=1))
    return tuple(EpochRecord(**vars(epoch), at=NOW - age) for epoch in each)


def fold(number: int, state: FoldState, records: tuple[EpochRecord, ...] = (), **known: object) -> FoldStatus:
    rest = {"result": None, "checkpoint": None, "left": None, "error": None, "at": records[-1].at if records else None}
    return FoldStatus(fold=number, state=state, epochs=records, of=20, **rest | known)  # type: ignore[arg-type]


RESULT = FoldResult(
    fold=0,
    tiles=2,
    score=0.81234,
    iou=0.5,
    dice=0.5,
    epochs=20,
    seconds=100.0,
    started=0.0,
    finished=NOW - 50,
    weights_sha256="0" * 64,
    oof_sha256="0" * 64,
)
FOLDS = (
    fold(0, "done", epochs(*[0.5] * 20), result=RESULT, at=NOW - 50),
    fold(1, "training", epochs(None, 0.7, 0.65), checkpoint=2, left=180.0),
    fold(2, "training", epochs(0.7, None, age=7200)),
    fold(3, "failed", error="RuntimeError: [CUDA] out of memory"),
    fold(4, "queued"),
)


def run_status(state: RunState = "running", folds: tuple[FoldStatus, ...] = FOLDS, **known: object) -> RunStatus:
    rest = {"owner": owner(), "ensemble": None, "manifest": None} | known
    done = sum(fold.result is not None for fold in folds)
    return RunStatus(
        run="r1",
        uri="s/runs/r1",
        state=state,
        done=done,
        count=len(folds),
        folds=folds,
        **rest,  # type: ignore[arg-type]
    )


def lines(status: RunStatus, width: int = 1000) -> list[str]:
    console = make_console(width=width)
    print_run(console, status)
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [80, 1000])
def test_a_run_fold_by_fold(width: int) -> None:
    head, names, _, *rows = lines(run_status(), width)
    assert head == "run r1 in s/runs/r1: running, process 7 on h, last sign of life 3 s ago"
    assert names.split() == ["fold", "state", "epoch", "score", "best", "images/s", "saved", "last", "record", "left"]
    assert [" ".join(row.split()) for row in rows] == [
        "0 done 20/20 0.8123 0.5000 in 1 812 50 s ago",
        "1 training 3/20 0.6500 0.7000 in 2 812 2 60 s ago 3 min",
        "2 training 2/20 0.7000 0.7000 in 1 812 2 h ago",
        "3 failed 0/20",
        "4 queued 0/20",
        "fold 3 failed: RuntimeError: [CUDA] out of memory (full text: s/runs/r1/fold-3/error.txt)",
        "folds done: 1 of 5",
    ]
    assert max(map(len, [names, *rows[:5]])) <= 80  # a row stays whole in a log file that is read on a terminal


def test_what_failed_is_red() -> None:
    console = make_console(terminal=True)
    print_run(console, run_status())
    red = [line for line in console.export_text(styles=True).splitlines() if RED in line]
    assert len(red) == 2
    assert "failed" in red[0]
    assert red[1].startswith(f"{RED}fold 3 failed")


@pytest.mark.parametrize(
    ("state", "known", "text"),
    [
        ("stopped", None, "stopped, no process has worked on it"),
        ("stopped", owner(120, released=True), "stopped, process 7 on h, released 2 min ago"),
        ("stale", owner(None), "stale, process 7 on h, last sign of life at an unknown time"),
    ],
)
def test_who_worked_on_it(state: RunState, known: Owner | None, text: str) -> None:
    assert lines(run_status(state, owner=known))[0] == f"run r1 in s/runs/r1: {text}"


@pytest.mark.parametrize(
    ("state", "folds", "text"),
    [
        ("running", FOLDS, "folds done: 1 of 5"),
        ("stopped", FOLDS, "folds done: 1 of 5; the same command as before trains the rest"),
        ("stale", FOLDS[:1], "folds done: 1 of 1; the same command as before publishes the ensemble"),
        ("finished", FOLDS[:1], "folds done: 1 of 1"),
    ],
)
def test_what_is_left_to_do(state: RunState, folds: tuple[FoldStatus, ...], text: str) -> None:
    assert lines(run_status(state, folds))[-1] == text


def test_a_finished_run_shows_its_ensemble() -> None:
    manifest = ensemble_manifest(members=(), postprocess=Postprocess(threshold=0.4), score=0.8, evaluation=EVALUATION)
    found = lines(run_status("finished", FOLDS[:1], ensemble="s/ensembles/r1/v1", manifest=manifest))
    assert found[-3:] == [
        "out-of-fold score 0.7211, 95 % interval 0.7012 to 0.7398",
        "at a probability of 0.5: 0.8000; masks by threshold 0.40",
        "ensemble  s/ensembles/r1/v1",
    ]


def test_runs() -> None:
    console = make_console(terminal=True)
    running = RunSummary(run="r1", uri="s/runs/r1", state="running", owner=owner(), done=1, count=5)
    corrupted = replace(running, run="r2", state="corrupted", owner=None, done=0, count=0)
    other = replace(corrupted, run="r3", state="other version", faults=("s/runs/r3 was made by another version",))
    print_runs(console, [running, replace(corrupted, faults=("s/r2: no JSON",)), other])
    names, _, *rows = console.export_text(clear=False).splitlines()
    assert names.split() == ["run", "state", "folds", "done", "last", "sign", "of", "life", "owner"]
    assert [" ".join(row.split()) for row in rows] == [
        "r1 running 1/5 3 s ago process 7 on h",
        "r2 corrupted 0/0",
        "r3 other version 0/0",
        "corrupted: s/r2: no JSON",
        "s/runs/r3 was made by another version",
    ]
    red = [RED in line for line in console.export_text(styles=True).splitlines()[2:]]
    assert red == [False, True, False, True, False]


def test_pretrainings() -> None:
    console = make_console(terminal=True)
    records = epochs(None, None)
    done = PretrainStatus(name="p1", uri="s/pretrained/p1", state="finished", owner=owner(), epochs=records, of=2)
    failed = replace(done, name="p2", uri="s/pretrained/p2", state="failed", owner=None, epochs=(), error="[OOM]")
    broken = replace(failed, name="p3", state="corrupted", error=None, of=0, faults=("s/p3: no JSON",))
    print_pretrainings(console, [done, failed, broken])
    names, _, *rows = console.export_text(clear=False).splitlines()
    assert names.split() == ["pretraining", "state", "epoch", "loss", "last", "sign", "of", "life", "owner"]
    assert [" ".join(row.split()) for row in rows] == [
        "p1 finished 2/2 1.0000 3 s ago process 7 on h",
        "p2 failed 0/2",
        "p3 corrupted 0/0",
        "weights of p1: s/pretrained/p1/model.safetensors",
        "pretraining p2 failed: [OOM] (full text: s/pretrained/p2/error.txt)",
        "corrupted: s/p3: no JSON",
    ]
    red = [RED in line for line in console.export_text(styles=True).splitlines()[2:]]
    assert red == [False, True, True, False, True, True]


def test_a_long_name_takes_several_lines_of_a_narrow_terminal() -> None:
    console = make_console(width=60, terminal=True)
    name = "a-run-of-many-words-" * 4
    print_runs(console, [RunSummary(run=name, uri="", state="stopped", owner=owner(), done=0, count=5)])
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 60
    rule = next(at for at, line in enumerate(lines) if line.startswith("─"))
    assert "".join(line.split(" ")[0] for line in lines[rule + 1 :]) == name


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (5900, "98 min"),
        (6000, "2 h"),
        (47 * 3600, "47 h"),
        (48 * 3600, "2 days"),
    ],
)
def test_a_duration_is_in_the_unit_that_a_person_would_use(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_verb(saltray: Saltray, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    missing = saltray("status", "--store", store.uri)
    assert missing == (0, f"no run in {store.uri} yet; `saltray train` creates one\n", "")
    manifest = RunManifest(run="r1", identity="1" * 64, config=Config(data="d"), dataset="2" * 64, provenance={})
    store.put_record("runs/r1/manifest.json", manifest)
    store.put_json("runs/r0/manifest.json", {})
    listed = saltray("status", "--store", store.uri)
    assert (listed.code, listed.err) == (0, "")
    *rows, fault = listed.out.splitlines()[2:]
    assert [row.split()[:3] for row in rows] == [["r0", "corrupted", "0/0"], ["r1", "stopped", "0/5"]]
    assert fault == f"corrupted: {store.uri}/runs/r0/manifest.json: run is missing; restore it or write it again"
    shown = saltray("status", "--store", store.uri, "--run", "r1")
    assert shown.out.endswith("folds done: 0 of 5; the same command as before trains the rest\n")
    assert shown.out.count("not started") == 5
    config = Config(data="d")
    pretraining = PretrainManifest(
        name="p1",
        identity="1" * 64,
        config=config,
        pretrain=PretrainConfig(),
        dataset="2" * 64,
        tiles=3,
        provenance={},
    )
    store.put_record("pretrained/p1/manifest.json", pretraining)
    both = saltray("status", "--store", store.uri).out.splitlines()
    assert both[: len(listed.out.splitlines())] == listed.out.splitlines()
    assert both[-1].split()[:3] == ["p1", "stopped", f"0/{config.train.epochs}"]
    check_refusal(saltray("status", "--store", store.uri, "--run", "r9"), "r9", "there are r0, r1")
    check_refusal(saltray("status", "--store", store.uri, "--run", "r0"), "r0/manifest.json")
    check_refusal(saltray("status", "--store", "gs://bucket"), "gs://")
