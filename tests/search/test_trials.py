"""A search in the store: created once, its trials written before they start and when they end, and read back."""

import json
from dataclasses import replace
from typing import Any

import pytest
from samples import DIGEST, STORED_CONFIG, STORED_EPOCH, STORED_PROVENANCE, dataset, metrics

from saltray.config import Config, TrainConfig, choice, loguniform
from saltray.ensemble.manifest import provenance
from saltray.errors import ConfigError, IntegrityError, NotFoundError
from saltray.progress import TrialState
from saltray.records import to_record
from saltray.runs.history import EpochRecord, History, NoteRecord
from saltray.runs.records import CheckpointManifest
from saltray.search.spec import SearchSpec
from saltray.search.trials import (
    SearchManifest,
    Trial,
    TrialResult,
    TrialValues,
    check_values,
    clear_checkpoints,
    create_search,
    create_trial,
    finish_trial,
    is_complete,
    load_trials,
    read_epochs,
)
from saltray.storage.base import Store
from saltray.training.epoch_metrics import EpochMetrics

from .conftest import SpecMaker

MANIFEST: dict[str, Any] = {
    "config": STORED_CONFIG,
    "dataset": DIGEST,
    "folds": [0],
    "identity": "1" * 64,
    "initial_weights": None,
    "provenance": STORED_PROVENANCE,
    "prune": True,
    "pseudo_labels": None,
    "sampler": "quasirandom",
    "search": "s1",
    "seed": 0,
    "space": {"optim.lr": "log:0.0001:0.1"},
}
VALUES: dict[str, Any] = {"index": 2, "values": {"model.is_deconv": True, "optim.lr": 0.002973, "train.batch_size": 4}}
STOPPED_EPOCH = {name: value for name, value in STORED_EPOCH.items() if name != "at"}
FINISHED: dict[str, Any] = {"epochs": [STORED_EPOCH, STORED_EPOCH], "reason": None, "status": "finished"}
STOPPED: dict[str, Any] = {"epochs": [STOPPED_EPOCH], "reason": None, "status": "stopped"}
FAILED: dict[str, Any] = {"epochs": [], "reason": "its process died", "status": "failed"}


def epochs_of(*scores: float | None) -> tuple[EpochRecord, ...]:
    return tuple(
        EpochRecord(**vars(metrics(number, score, seconds=2.0)), at=1000.0 + number)
        for number, score in enumerate(scores, start=1)
    )


# What saltray 0.1 stored


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        (SearchManifest, MANIFEST),
        (TrialValues, VALUES),
        (TrialResult, FINISHED),
        (TrialResult, STOPPED),
        (TrialResult, FAILED),
    ],
)
def test_a_stored_record_is_written_again_as_the_same_bytes(kind: type[Any], record: Any, home: Store) -> None:
    home.put_json("before.json", record)
    home.put_record("after.json", home.get_record("before.json", kind))
    assert home.get("after.json") == home.get("before.json")


def test_a_search_of_an_earlier_version_is_read(home: Store) -> None:
    home.put_json("trial-002/trial.json", VALUES)
    home.put_json("trial-002/result.json", FINISHED)
    home.put_json("trial-003/trial.json", VALUES | {"index": 3})
    home.put_json("trial-003/result.json", STOPPED)
    finished, stopped = load_trials(home, 9)
    assert [type(value) for value in finished.values.values()] == [bool, float, int]
    assert (finished.status, finished.epochs) == ("finished", (EpochRecord(**STORED_EPOCH),) * 2)
    assert (stopped.status, stopped.epochs) == ("stopped", (EpochMetrics(**STOPPED_EPOCH),))
    assert type(stopped.epochs[0]) is EpochMetrics


# The search


def create(home: Store, spec: SearchSpec, digest: str = DIGEST, initial_weights: str | None = None) -> None:
    create_search(home, spec, dataset(digest), initial_weights)


def test_a_search_has_a_manifest(home: Store, make_spec: SpecMaker) -> None:
    spec = make_spec(folds=(0, 2), trials=3)
    create(home, spec)
    record = home.get_json("manifest.json")
    assert len(record.pop("identity")) == 64
    assert record == {
        "search": "s1",
        "config": to_record(spec.config),
        "space": {"optim.lr": "log:1e-05:0.01"},
        "folds": [0, 2],
        "sampler": "quasirandom",
        "prune": True,
        "seed": 0,
        "dataset": DIGEST,
        "initial_weights": None,
        "pseudo_labels": None,
        "provenance": provenance(),
    }


def test_trials_and_concurrency_may_change(home: Store, make_spec: SpecMaker) -> None:
    create(home, make_spec())
    written = home.get("manifest.json")
    create(home, make_spec(trials=40, concurrent=3))
    assert home.get("manifest.json") == written


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "search.seed"),
        ({"space": {"optim.lr": loguniform(1e-5, 1e-1)}}, "search.space"),
        ({"folds": (1,), "prune": False}, "search.folds, search.prune"),
        ({"sampler": "tpe"}, "search.sampler"),
        ({"epochs": 8}, "train.epochs (9)"),
        ({"seed": 1, "config": Config(data="d", train=TrainConfig(epochs=8))}, "search.seed, train.epochs (9)"),
    ],
)
def test_another_search_of_the_same_name_is_refused(
    home: Store, make_spec: SpecMaker, changes: dict[str, Any], named: str
) -> None:
    create(home, make_spec())
    home.put_json("trial-000/result.json", STOPPED)
    written = home.get("manifest.json")
    with pytest.raises(ConfigError) as caught:
        create(home, make_spec(**changes))
    assert str(caught.value) == (
        f"search s1 was started with other {named}; use those again to resume it, or choose another --search.name"
    )
    assert home.get("manifest.json") == written


def test_a_search_that_finished_no_epoch_may_begin_with_other_settings(home: Store, make_spec: SpecMaker) -> None:
    create(home, make_spec())
    create_trial(home, 0, {"optim.lr": 1e-3})
    home.put_json("trial-001/result.json", FAILED)
    with History(home.sub("trial-000")) as history:
        history.note("runs on 10.0.0.1")
    other = make_spec(seed=1)
    create(home, other)
    assert home.get_record("manifest.json", SearchManifest).seed == 1
    assert [entry.key for entry in home.list()] == ["manifest.json"]
    create(home, other)


@pytest.mark.parametrize("kept", ["epoch", "checkpoint", "stopped", "diverged", "failed later", "corrupted"])
def test_a_search_with_something_to_keep_keeps_its_settings(home: Store, make_spec: SpecMaker, kept: str) -> None:
    create(home, make_spec())
    home.put_json("trial-000/result.json", FAILED)
    match kept:
        case "epoch":
            home.put("trial-001/history.jsonl", json.dumps(STORED_EPOCH).encode() + b"\n")
        case "checkpoint":
            home.put("trial-001/checkpoints/epoch-00001/manifest.json", b"{}")
        case "stopped":
            home.put_json("trial-001/result.json", STOPPED)
        case "diverged":
            home.put_json("trial-001/result.json", FAILED | {"status": "diverged"})
        case "failed later":
            home.put_json("trial-001/result.json", FAILED | {"epochs": [STORED_EPOCH]})
        case "corrupted":
            home.put("trial-001/history.jsonl", b"junk\n")
    with pytest.raises(ConfigError, match="search s1 was started with other search.seed; use those again"):
        create(home, make_spec(seed=1))


@pytest.mark.parametrize(
    ("results", "complete"),
    [
        ([], False),
        ([FINISHED], False),
        ([FINISHED, STOPPED], True),
        ([FINISHED, FAILED], False),
        ([FINISHED, None], False),
    ],
)
def test_a_search_is_complete_when_its_trials_have_ended(home: Store, results: list[Any], complete: bool) -> None:
    for index, result in enumerate(results):
        create_trial(home, index, {"optim.lr": 1e-3})
        if result is not None:
            home.put_json(f"trial-{index:03d}/result.json", result)
    assert is_complete(home, 2) == complete


@pytest.mark.parametrize(
    ("digest", "initial_weights", "named"),
    [("e" * 64, None, "tiles"), (DIGEST, "f" * 64, "initial weights"), ("e" * 64, "f" * 64, "tiles")],
)
def test_other_tiles_and_other_initial_weights_are_refused(
    home: Store, make_spec: SpecMaker, digest: str, initial_weights: str | None, named: str
) -> None:
    create(home, make_spec())
    home.put_json("trial-000/result.json", STOPPED)
    with pytest.raises(ConfigError, match=f"search s1 was started with other {named}; use those again"):
        create(home, make_spec(), digest, initial_weights)


# A trial


def test_a_diverged_or_failed_trial_loses_whatever_it_scored() -> None:
    poor = Trial(index=3, values={}, status="stopped", epochs=epochs_of(0.1))
    for status in ("diverged", "failed"):
        lost = Trial(index=0, values={}, status=status, epochs=epochs_of(0.9), reason="NaN")
        assert lost.best is None
        assert max([lost, poor], key=lambda trial: trial.rank) == poor


def test_of_equal_trials_the_first_is_the_best() -> None:
    first, second = (Trial(index=index, values={}, status="stopped", epochs=epochs_of(0.1)) for index in (1, 2))
    assert max([second, first], key=lambda trial: trial.rank) == first
    better = replace(second, epochs=epochs_of(0.1, 0.2))
    assert max([better, first], key=lambda trial: trial.rank) == better


@pytest.mark.parametrize(
    ("status", "resumable"),
    [("running", True), ("failed", True), ("finished", False), ("stopped", False), ("diverged", False)],
)
def test_which_trials_are_run_again(status: Any, resumable: bool) -> None:
    assert Trial(index=0, values={}, status=status).resumable is resumable


def test_a_trial_for_an_observer() -> None:
    trial = Trial(index=7, values={"optim.lr": 1e-3}, status="stopped", epochs=epochs_of(0.2, 0.5, None))
    assert (trial.name, trial.seconds) == ("trial-007", 6.0)
    assert trial.state(9) == TrialState(
        name="trial-007",
        status="stopped",
        values={"optim.lr": 1e-3},
        epochs=3,
        length=9,
        score=0.5,
        best_epoch=2,
    )
    lost = replace(trial, status="diverged", reason="NaN").state(9)
    assert (lost.score, lost.best_epoch, lost.reason, lost.epochs) == (None, None, "NaN", 3)


# Trials in the store


@pytest.mark.parametrize("key", ["history.jsonl", "checkpoints/epoch-00009/manifest.json"])
def test_a_loss_that_is_not_finite_is_a_damaged_record(home: Store, key: str) -> None:
    """Not what fails when the trial, which had run all epochs, is written again."""
    trial = create_trial(home, 0, {"optim.lr": 1e-3})
    epoch = STORED_EPOCH | {"epoch": 9}
    record = epoch if key == "history.jsonl" else {"epoch": 9, "sha256": "0" * 64, "history": [epoch]}
    home.put(
        f"{trial.name}/{key}", json.dumps(record).replace(f'"loss": {epoch["loss"]}', '"loss": 1e999').encode() + b"\n"
    )
    with pytest.raises(IntegrityError, match=f"{key}.*it should be a finite number"):
        load_trials(home, 9)


def put_checkpoint(home: Store, trial: Trial, epoch: int, *, complete: bool = True) -> None:
    folder = f"{trial.name}/checkpoints/epoch-{epoch:05d}"
    home.put(f"{folder}/state.pt", b"state")
    if complete:
        note = NoteRecord(note="computes in fp32", at=1000.0)
        manifest = CheckpointManifest(epoch=epoch, sha256="0" * 64, history=(note, *epochs_of(*[0.1] * epoch)))
        home.put_record(f"{folder}/manifest.json", manifest)


def put_history(home: Store, trial: Trial, *scores: float | None) -> None:
    with History(home.sub(trial.name), [NoteRecord(note="computes in fp32", at=1000.0), *epochs_of(*scores)]):
        pass


def test_a_trial_is_in_the_store_before_it_starts(home: Store) -> None:
    trial = create_trial(home, 7, {"optim.lr": 1e-3, "train.batch_size": 16})
    assert trial == Trial(index=7, values={"optim.lr": 1e-3, "train.batch_size": 16})
    assert home.get_json("trial-007/trial.json") == {"index": 7, "values": {"optim.lr": 1e-3, "train.batch_size": 16}}
    assert load_trials(home, 9) == [trial]
    assert type(load_trials(home, 9)[0].values["train.batch_size"]) is int


@pytest.mark.parametrize(
    ("status", "reason", "kept"),
    [("finished", None, False), ("stopped", None, False), ("diverged", "NaN", False), ("failed", "lost", True)],
)
def test_an_ended_trial_keeps_its_checkpoints_only_if_it_is_resumed(
    home: Store, status: Any, reason: str | None, kept: bool
) -> None:
    trial = create_trial(home, 0, {"optim.lr": 1e-3})
    put_checkpoint(home, trial, 1)
    ended = replace(trial, status=status, reason=reason, epochs=epochs_of(0.2, 0.3))
    finish_trial(home, ended)
    # One that failed resumes from its checkpoint, after epoch 1.
    assert load_trials(home, 9) == [replace(ended, epochs=epochs_of(0.1)) if kept else ended]
    assert bool(list(home.list("trial-000/checkpoints"))) is kept
    put_checkpoint(home, trial, 2)  # by a worker that has not ended yet
    clear_checkpoints(home, [ended])
    assert bool(list(home.list("trial-000/checkpoints"))) is kept


def test_an_interrupted_trial_has_the_epochs_of_its_newest_complete_checkpoint(home: Store) -> None:
    trial = create_trial(home, 1, {"optim.lr": 1e-3})
    put_checkpoint(home, trial, 1)
    put_checkpoint(home, trial, 2)
    put_checkpoint(home, trial, 3, complete=False)
    put_history(home, trial, 0.1, 0.1, 0.1, 0.1)
    assert load_trials(home, 9) == [replace(trial, epochs=epochs_of(0.1, 0.1))]
    home.delete_prefix("trial-001/checkpoints")
    assert load_trials(home, 9) == [trial]


def test_a_trial_that_had_run_all_its_epochs_is_finished(home: Store) -> None:
    trial = create_trial(home, 2, {"optim.lr": 1e-3})
    put_checkpoint(home, trial, 2)
    put_history(home, trial, 0.1, 0.2, 0.3)
    finished = replace(trial, status="finished", epochs=epochs_of(0.1, 0.2, 0.3))
    assert load_trials(home, 3) == [finished]
    assert home.get_record("trial-002/result.json", TrialResult).status == "finished"
    assert not list(home.list("trial-002/checkpoints"))


def test_trials_are_in_the_order_of_their_numbers(home: Store) -> None:
    for index in (1000, 2, 999):
        create_trial(home, index, {"train.batch_size": index})
    home.put("tensorboard/trial-002/events", b"")
    assert [trial.index for trial in load_trials(home, 9)] == [2, 999, 1000]


@pytest.mark.parametrize(
    ("name", "record", "fault"),
    [
        ("trial.json", {"index": 0}, "trial.json: values is missing"),
        ("trial.json", {"index": 0, "values": {"optim.lr": None}}, "trial.json: values.optim.lr"),
        ("result.json", FINISHED | {"status": "done"}, 'result.json: status is "done"'),
        ("result.json", FINISHED | {"epochs": [{"epoch": 1}]}, "result.json: epochs.0"),
    ],
)
def test_a_corrupted_trial_is_named(home: Store, name: str, record: Any, fault: str) -> None:
    create_trial(home, 0, {})
    home.put_json(f"trial-000/{name}", record)
    with pytest.raises(IntegrityError, match=f"trial-000/{fault}"):
        load_trials(home, 9)


def test_a_trial_in_the_folder_of_another_is_named(home: Store) -> None:
    home.put_record("trial-003/trial.json", TrialValues(index=2, values={}))
    with pytest.raises(IntegrityError, match=r"trial-003/trial.json: index is 2, which is of trial-002; delete this"):
        load_trials(home, 9)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"optim.lr": 1e-3, "train.batch_size": 8}, None),
        ({"optim.lr": 1, "train.batch_size": 8}, "values.optim.lr is 1, which is not in the search's space"),
        ({"optim.lr": "fast", "train.batch_size": 8}, 'values.optim.lr is "fast"'),
        ({"optim.lr": 1e-3, "train.batch_size": 2**62}, "values.train.batch_size is"),
        ({"optim.lr": 1e-3, "train.batch_size": True}, "values.train.batch_size is true"),
        ({"optim.lr": 1e-3}, "values.train.batch_size is missing"),
        ({}, "values.optim.lr is missing"),
        ({"optim.lr": 1e-3, "a\nb": 8}, r'values."a\\nb" is no searched field'),
        ({"a" * 3000: 8}, f'values."{"a" * 79}... is no searched field'),
    ],
)
def test_values_that_the_search_cannot_have_drawn_are_named(home: Store, values: Any, fault: str | None) -> None:
    space = {"optim.lr": loguniform(1e-5, 1e-2), "train.batch_size": choice([1, 8])}
    trial = Trial(index=7, values=values)
    if fault is None:
        check_values(home, [trial], space)
    else:
        with pytest.raises(IntegrityError, match=f"trial-007/trial.json: {fault}"):
            check_values(home, [trial], space)


def test_the_epochs_of_some_trials_are_read_in_their_order(home: Store) -> None:
    for index in range(40):
        finish_trial(home, replace(create_trial(home, index, {}), status="finished", epochs=epochs_of(index / 100)))
    create_trial(home, 40, {})
    found = read_epochs(home, ["trial-030", "trial-002"])
    assert [epochs[0].score for epochs in found] == [0.3, 0.02]
    with pytest.raises(NotFoundError):
        read_epochs(home, ["trial-040"])
    home.put("trial-002/result.json", b"{")
    with pytest.raises(IntegrityError, match=r"trial-002/result\.json"):
        read_epochs(home, ["trial-030", "trial-002"])
