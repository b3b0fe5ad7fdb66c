"""Search and training in one: the second takes the values that the first found, on as many ranks."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from ray_session import Recorded, record

import saltray
from saltray.commands import run as module
from saltray.commands.publish_run import TrainResult
from saltray.config import ClusterConfig, Config, SearchConfig, choice
from saltray.errors import ConfigError, DataError, ResourceError
from saltray.progress import FoldEpoch, RunPlanned, SearchPlanned, SearchValuesTaken, TrialEnded
from saltray.runs.history import epochs_of, read_history
from saltray.runs.records import RunManifest
from saltray.search.results import BestTrial
from saltray.storage.base import Store
from saltray.storage.uri import open_store

Small = Callable[..., Config]
BOUNDLESS = 1e30
"""A learning rate at which the first step makes the loss infinite."""


@pytest.fixture(scope="module")
def config(small: Small, tiles_folder: Path, s3_uri: Callable[[], str]) -> Config:
    """The settings of the finished run but for a useless learning rate, on S3 and on two ranks a fold."""
    config = small(tiles_folder, s3_uri(), cluster=ClusterConfig(workers_per_fold=2, max_failures=0))
    return replace(config, optim=replace(config.optim, lr=1e-9))


@pytest.fixture(scope="module")
def ran(ray_here: None, config: Config) -> Recorded[saltray.TrainResult]:
    """A search of two rates, of which one diverges, and a training with the other."""
    search = SearchConfig(space={"optim.lr": saltray.choice([3e-3, BOUNDLESS])}, trials=2, epochs=1)
    return record(saltray.run, config, search)


@pytest.fixture
def store(config: Config) -> Store:
    return open_store(config.store)


@pytest.mark.ray
def test_the_search_comes_first_and_nothing_is_printed(ran: Recorded[saltray.TrainResult]) -> None:
    assert ran.printed == ""
    kinds = [kind for kind in ran.kinds if kind not in {"TrialStarted", "TrialEpoch", "TrialEnded"}]
    searching, training = kinds[: kinds.index("SearchValuesTaken")], kinds[kinds.index("SearchValuesTaken") :]
    assert [kind for kind in searching if kind != "TrialsRunning"] == ["SearchPlanned", "CapacityFound", "TrialsEnded"]
    assert training[:3] == ["SearchValuesTaken", "RunPlanned", "CapacityFound"]
    assert training[-1] == "Published"
    assert [event.epochs for event in (*ran.of(SearchPlanned), *ran.of(RunPlanned))] == [1, 2]
    assert ran.of(RunPlanned)[0].ranks == 2
    assert {(event.fold, event.epoch) for event in ran.of(FoldEpoch)} == {(0, 1), (0, 2), (1, 1), (1, 2)}


@pytest.mark.ray
def test_a_diverged_trial_loses_and_the_search_continues(ran: Recorded[saltray.TrainResult], store: Store) -> None:
    ended = {event.trial.values["optim.lr"]: event for event in ran.of(TrialEnded)}
    assert {rate: event.trial.status for rate, event in ended.items()} == {3e-3: "finished", BOUNDLESS: "diverged"}
    assert ended[BOUNDLESS].failure
    assert "NaN or infinite in epoch 1" in str(ended[BOUNDLESS])
    best = store.get_record("searches/r1/best.json", BestTrial)
    assert (best.trial, best.values) == (ended[3e-3].trial.name, {"optim.lr": 3e-3})


@pytest.mark.ray
def test_the_run_has_the_values_that_were_found_and_says_from_where(
    ran: Recorded[saltray.TrainResult], config: Config, store: Store
) -> None:
    best = store.get_record("searches/r1/best.json", BestTrial)
    uri = f"{config.store}/searches/r1"
    assert ran.of(SearchValuesTaken) == [SearchValuesTaken(uri, best.trial, {"optim.lr": 3e-3})]
    run = store.get_record("runs/r1/manifest.json", RunManifest)
    assert run.config == replace(config, optim=replace(config.optim, lr=3e-3))
    ensemble = saltray.Ensemble.load(ran.result.ensemble).manifest
    for provenance in (run.search_provenance, ensemble.search_provenance):
        assert provenance is not None
        assert (provenance.uri, provenance.search, provenance.trial) == (uri, "r1", best.trial)
        assert (provenance.values, provenance.score) == ({"optim.lr": 3e-3}, best.score)
    assert f"search `r1`, {best.trial}: optim.lr 0.003." in saltray.Ensemble.card(ran.result.ensemble)


@pytest.mark.ray
def test_two_ranks_on_s3_give_the_run_of_one_in_a_folder(
    ran: Recorded[saltray.TrainResult], finished: Recorded[saltray.TrainResult], store: Store
) -> None:
    one, two = open_store(finished.result.ensemble.partition("/ensembles/")[0]), store
    for fold in range(2):
        histories = [epochs_of(read_history(place.sub(f"runs/r1/fold-{fold}"))) for place in (one, two)]
        losses = [[(epoch.loss, epoch.valid_loss) for epoch in history] for history in histories]
        assert len(losses[0]) == 2
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    assert probabilities(one) == pytest.approx(probabilities(two), abs=5e-3)
    assert finished.result.threshold == pytest.approx(ran.result.threshold, abs=0.05)


def probabilities(store: Store) -> Any:
    rows = store.get_table("runs/r1/oof.parquet")["probability"].to_pylist()
    return np.stack([np.frombuffer(row, np.float16) for row in rows]).astype(np.float32)


TRAINED = Mock(spec=TrainResult)


@dataclass
class Calls:
    """What `run` gives to the search and to the training."""

    searched: list[Any] = field(default_factory=list)
    trained: list[Any] = field(default_factory=list)
    told: list[Any] = field(default_factory=list)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """In place of the search, the training and Ray; the inputs are those of the test."""
    calls = Calls()
    monkeypatch.setattr(module, "ray_cluster", lambda **_: nullcontext())
    monkeypatch.setattr(module, "prepare", lambda *_, **__: calls)
    monkeypatch.setattr(module, "tune_prepared", lambda *given: calls.searched.append(given))
    monkeypatch.setattr(module, "take_best_values", lambda config, source, observer: (config, source))
    monkeypatch.setattr(module, "train_prepared", lambda *given: calls.trained.append(given) or TRAINED)
    return calls


@pytest.mark.parametrize(("name", "used"), [(None, "night"), ("s9", "s9")])
def test_a_search_without_a_name_has_that_of_the_run(
    name: str | None, used: str, small: Small, tmp_path: Path, calls: Calls
) -> None:
    config, observer = small("tiles", tmp_path / "store", run="night"), calls.told.append
    assert saltray.run(config, SearchConfig(name=name), observer=observer) is TRAINED
    ((base, spec, store, inputs, to_search),) = calls.searched
    assert (base, spec.name, store.uri, to_search) == (config, used, config.store, observer)
    ((best, same_store, same_inputs, folds, source, to_train),) = calls.trained
    assert list(folds) == list(range(config.folds.count))
    assert (best, source, to_train) == (config, f"searches/{used}", observer)
    assert inputs is same_inputs is calls  # read once
    assert store is same_store


def test_a_finished_run_is_not_refused_on_a_lesser_machine(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: Calls
) -> None:
    """`train` and `tune` take it as it is."""
    cluster = ClusterConfig(workers_per_fold=2, cpus_per_worker=999, gpus_per_worker=0)
    config = small("tiles", tmp_path / "store", cluster=cluster)
    for _ in range(2):
        with pytest.raises(ResourceError, match="a job needs 2 ranks of 999 CPU"):
            saltray.run(config)
        monkeypatch.setattr("saltray.commands.tune.is_complete", lambda *_: True)
    monkeypatch.setattr("saltray.commands.train.fold_result", lambda *_: Mock(epochs=config.train.epochs))
    assert saltray.run(config) is TRAINED


def test_all_bad_tiles_are_told_before_ray_starts(
    small: Small, tiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ray_cluster", lambda **_: pytest.fail("Ray is started"))
    data = Path(shutil.copytree(tiles_folder, tmp_path / "data"))
    for path in sorted((data / "train/images").iterdir())[:3]:
        path.write_text("junk")
    with pytest.raises(DataError) as caught:
        saltray.run(small(data, tmp_path / "store"))
    assert len(caught.value.problems) == 3


def test_what_is_impossible_is_refused_before_ray_starts(
    small: Small, tiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ray_cluster", lambda **_: pytest.fail("Ray is started"))
    config = small(tiles_folder, tmp_path / "store")
    with pytest.raises(ConfigError, match="search.folds names fold 7"):
        saltray.run(config, SearchConfig(folds=(7,)))
    with pytest.raises(ConfigError, match="train.input_size is 64; use --train.input-size 128"):
        saltray.run(config, SearchConfig(space={"train.input_size": choice([128, 64])}))
    with pytest.raises(ResourceError, match="a job needs 9 ranks of 1 CPU"):
        cluster = ClusterConfig(workers_per_fold=9, cpus_per_worker=1, gpus_per_worker=0)
        saltray.run(replace(config, cluster=cluster, train=replace(config.train, batch_size=9)), SearchConfig())
    assert not list(open_store(config.store).list())
