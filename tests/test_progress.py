"""Events say what happened in words, for every observer alike."""

import inspect
import logging
from dataclasses import is_dataclass, replace

import pytest

from saltray import progress
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
    log_event,
    number_text,
)

RUN = RunPlanned(
    run="r1",
    tiles=24,
    height=101,
    width=99,
    input_size=128,
    epochs=60,
    steps=5,
    batch_size=8,
    ranks=2,
    split=(FoldBalance(0, 12, 7, 0.4, 0.2),),
)
SEARCH = SearchPlanned(
    search="s1",
    tiles=24,
    folds=(0,),
    held_out=(12,),
    trials=4,
    epochs=9,
    steps=3,
    batch_size=4,
    space={"optim.lr": "log:1e-05:0.01"},
    rungs=(1, 3),
)
CAPACITY = CapacityFound(where="2 CPUs", job="fold", needs="1 rank of 1 CPU", jobs=5, concurrency=2, ready=2)
EPOCH = FoldEpoch(fold=1, epoch=7, epochs=60, loss=0.25, score=0.5, images_per_second=812.3)
FINISHED = FoldFinished(fold=1, score=0.8125, seconds=99.6, queued=0)
FAILED = FoldFailed(fold=1, reason="CUDA out of memory", queued=0)
TRIAL = TrialState(
    name="trial-007",
    status="running",
    values={"optim.lr": 1.23456e-3, "train.batch_size": 16},
    epochs=0,
    length=9,
)
ENDED = replace(TRIAL, status="stopped", epochs=3, score=0.5, best_epoch=2)
LOST = replace(TRIAL, status="diverged", epochs=3, reason="the loss became NaN")
PREDICTION = PredictionPlanned(tiles=18, ensemble="r1 v2", where="2 CPUs", workers=2, device="CPU")
SERVING = ServingPlanned(ensemble="r1 v2", where="2 CPUs", replicas=1, max_replicas=1, device="CPU")
STARTED = ServingStarted(ensemble="r1 v2", url="http://127.0.0.1:8000/", height=101, width=99, follows=False)

TEXTS = [
    (TilesWritten(240, "demo/tiles"), "wrote 240 synthetic tiles to demo/tiles"),
    (TilesImported(10_000, 1_000_000), "tiles: 10,000 of 1,000,000"),
    (RayConnected("Ray on this machine", "/tmp/ray/s/logs"), "logs of Ray on this machine: /tmp/ray/s/logs"),
    (DataNote("12-bit range"), "data set: 12-bit range"),
    (LockTakenOver("process 7 on h"), "took over the stale lock of process 7 on h"),
    (
        SearchValuesTaken("s3://b/searches/s1", "trial-003", {"optim.lr": 0.5, "train.batch_size": 16}),
        "from s3://b/searches/s1, trial-003: optim.lr 0.5, train.batch_size 16",
    ),
    (
        RUN,
        "run r1: 24 tiles of 101x99, padded to 128; 60 epochs of up to 5 steps of 8 tiles (4 a rank)",
    ),
    (
        replace(RUN, input_size=256, resize=2),
        "run r1: 24 tiles of 101x99, enlarged 2 times, padded to 256; 60 epochs of up to 5 steps of 8 tiles (4 a rank)",
    ),
    (
        SEARCH,
        (
            "search s1: 24 tiles, fold 0 held out (12 tiles); up to 4 trials of 9 epochs of 3 steps of 4 tiles\n"
            "  optim.lr in log:1e-05:0.01\n"
            "a trial continues after epoch 1, 3 only if it is among the better third there"
        ),
    ),
    (
        replace(SEARCH, folds=(0, 2), held_out=(12, 6), space={}, rungs=()),
        "search s1: 24 tiles, folds 0, 2 held out (12, 6 tiles); up to 4 trials of 9 epochs of 3 steps of 4 tiles",
    ),
    (RangeTestPlanned(100, 8, 1e-5, 1.0), "range test: 100 steps of 8 tiles, learning rate 1e-05 to 1"),
    (FoldsFinishedBefore((0, 3)), "finished before: fold 0, 3"),
    (TrialsStartedBefore(4, 3), "started before: 4 trials, of which 3 have ended and are kept"),
    (CAPACITY, "on 2 CPUs: a fold needs 1 rank of 1 CPU; 2 of 5 folds at once, 3 queued"),
    (replace(CAPACITY, jobs=2), "on 2 CPUs: a fold needs 1 rank of 1 CPU; 2 of 2 folds at once"),
    (
        replace(CAPACITY, jobs=2, ready=0),
        (
            "on 2 CPUs: a fold needs 1 rank of 1 CPU; 2 of 2 folds at once\n"
            "0 can start now; the cluster takes some minutes to grow"
        ),
    ),
    (replace(CAPACITY, job="trial"), "on 2 CPUs: a trial needs 1 rank of 1 CPU; 2 at once"),
    (replace(CAPACITY, job="test"), "on 2 CPUs: it needs 1 rank of 1 CPU"),
    (StoreMustBeShared("/store"), "the store is a folder: nodes that join later must mount it, too, at /store"),
    (FoldStarted(1), "fold 1  started"),
    (FoldWaiting(1, 9.6), "fold 1  has waited 10 min for its nodes; `ray status` on the head node says why"),
    (FoldResumed(1, 12), "fold 1  resumes after epoch 12, from its last checkpoint"),
    (FoldNote(1, "computes in fp32"), "fold 1  computes in fp32"),
    (EPOCH, "fold 1  epoch   7/60  loss 0.2500  score 0.5000  812 images/s"),
    (replace(EPOCH, score=None), "fold 1  epoch   7/60  loss 0.2500  812 images/s"),
    (FINISHED, "fold 1  done  score 0.8125  100 s"),
    (replace(FINISHED, queued=2), "fold 1  done  score 0.8125  100 s  (2 queued)"),
    (FAILED, "fold 1  failed; the others continue: CUDA out of memory"),
    (replace(FAILED, queued=2), "fold 1  failed; the others continue  (2 queued): CUDA out of memory"),
    (
        FoldsMissing("r1", (2, 4)),
        "run r1 is not published: folds 2, 4 missing; the same command for all folds trains the rest",
    ),
    (MLflowFailed("x", "search"), "MLflow lacks a part of this search, which the same command sends later: x"),
    (MLflowFailed("no answer"), "MLflow lacks a part of this run, which the same command sends later: no answer"),
    (Published("s3://b/ensembles/r1/v1"), "published s3://b/ensembles/r1/v1"),
    (
        PretrainPlanned(
            name="p1",
            tiles=24,
            height=101,
            width=99,
            input_size=128,
            hidden=29,
            patch=16,
            epochs=60,
            steps=3,
            batch_size=8,
            ranks=2,
        ),
        (
            "pretraining p1: 24 images of 101x99, padded to 128, with 29 patches of 16x16 hidden; 60 epochs of 3 steps "
            "of 8 images (4 a rank)"
        ),
    ),
    (replace(CAPACITY, job="pretraining"), "on 2 CPUs: it needs 1 rank of 1 CPU"),
    (PretrainFinishedBefore("p1"), "finished before: pretraining p1"),
    (PretrainResumed(12), "resumes after epoch 12, from the last checkpoint"),
    (PretrainWaiting(9.6), "it has waited 10 min for its nodes; `ray status` on the head node says why"),
    (PretrainNote("computes in fp32"), "computes in fp32"),
    (
        PretrainEpoch(epoch=7, epochs=60, loss=0.25, images_per_second=812.3),
        "epoch   7/60  loss 0.2500  812 images/s",
    ),
    (TrialsRunning((TRIAL,), 4, ("optim.lr",)), "up to 4 trials run"),
    (TrialStarted(TRIAL), "trial-007  optim.lr 0.001235  train.batch_size 16"),
    (TrialStarted(ENDED), "trial-007  optim.lr 0.001235  train.batch_size 16  (from epoch 3)"),
    (TrialEpoch(ENDED, 0.25), "trial-007  epoch   3/9  score 0.2500"),
    (TrialEpoch(ENDED, None), "trial-007  epoch   3/9"),
    (TrialEnded(ENDED), "trial-007  stopped after epoch 3  best score 0.5000 in epoch 2"),
    (TrialEnded(LOST), "trial-007  diverged after epoch 3: the loss became NaN"),
    (TrialsEnded(), "all trials have ended"),
    (TilesClipped(("a.png",)), "1 tile is brighter than any training image, and the excess is cut off: a.png"),
    (
        TilesClipped(tuple("abcde")),
        "5 tiles are brighter than any training image, and the excess is cut off: a, b, c and 2 more",
    ),
    (PREDICTION, "predicting 18 tiles with r1 v2 on 2 CPUs: 2 CPU workers"),
    (replace(PREDICTION, workers=1, device="GPU"), "predicting 18 tiles with r1 v2 on 2 CPUs: 1 GPU worker"),
    (TilesPredicted(1200, 18000), "predicted 1,200 of 18,000 tiles"),
    (SERVING, "loading r1 v2 on 2 CPUs: 1 CPU replica"),
    (replace(SERVING, max_replicas=8, device="GPU"), "loading r1 v2 on 2 CPUs: 1 to 8 GPU replicas"),
    (STARTED, "serving r1 v2, tiles of 101x99, at http://127.0.0.1:8000/; Ctrl-C ends it"),
    (
        replace(STARTED, follows=True),
        str(STARTED).replace("; Ctrl-C", "; a newer version is served once it is published; Ctrl-C"),
    ),
    (ServingWaiting(2.0), "not ready after 2 min; `ray status` on the head node says what it waits for"),
    (ServingUpdated("r1 v3"), "now serving r1 v3"),
    (ServingKept("r1 v2", "v3 is damaged"), "still serving r1 v2: v3 is damaged"),
]
KINDS = [
    kind for _, kind in inspect.getmembers(progress, inspect.isclass) if issubclass(kind, Event) and kind is not Event
]


@pytest.mark.parametrize(("event", "text"), TEXTS)
def test_an_event_says_what_happened(event: Event, text: str) -> None:
    assert str(event) == text


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_event_has_a_text_and_a_test(kind: type[Event]) -> None:
    assert is_dataclass(kind)
    assert "__str__" in vars(kind)
    assert kind in {type(event) for event, _ in TEXTS}


@pytest.mark.parametrize("status", ["finished", "stopped", "diverged", "failed"])
def test_what_went_wrong_is_marked(status: progress.TrialStatus) -> None:
    assert TrialEnded(replace(TRIAL, status=status)).failure is (status in ("diverged", "failed"))
    marked = {type(event) for event, _ in TEXTS if event.failure}
    assert marked == {FoldFailed, ServingKept, TrialEnded}


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (FINISHED, logging.INFO),
        (FAILED, logging.WARNING),
        (TrialEnded(ENDED), logging.INFO),
        (TrialEnded(LOST), logging.WARNING),
    ],
)
def test_the_default_observer_logs(event: Event, level: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="saltray"):
        log_event(event)
    assert caplog.record_tuples == [("saltray", level, str(event))]


def test_a_text_is_logged_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="saltray"):
        log_event(FoldNote(0, "100 %s"))
    assert caplog.messages == ["fold 0  100 %s"]


@pytest.mark.parametrize(
    ("value", "text"), [(1.23456e-5, "1.235e-05"), (0.5, "0.5"), (16, "16"), ("adam", "adam"), (True, "True")]
)
def test_a_searched_value_in_words(value: object, text: str) -> None:
    assert number_text(value) == text
