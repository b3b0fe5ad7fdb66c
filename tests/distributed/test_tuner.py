"""How Ray Tune is asked to run a search: which trials it stops, how many run at once, and what an interrupt does."""

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from ray.tune import TuneError
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from samples import metrics

from saltray.config import ClusterConfig
from saltray.distributed import tuner as module
from saltray.distributed.capacity import JobResources
from saltray.distributed.jobs import Job
from saltray.distributed.trial import TrialTemplate
from saltray.distributed.trial_searcher import TrialSearcher
from saltray.distributed.tuner import make_scheduler, run_trials
from saltray.errors import RunLockedError, StorageError
from saltray.search.objective import OBJECTIVE, objective
from saltray.search.spec import SearchSpec
from saltray.search.trials import Trial

MakeSpec = Callable[..., SearchSpec]


def decision(scheduler: Any, name: str, epoch: int, score: float) -> str:
    """What the scheduler says of a trial after an epoch."""
    trial = SimpleNamespace(trial_id=name)
    if name not in scheduler._trial_info:
        scheduler.on_trial_add(None, trial)
    return str(scheduler.on_trial_result(None, trial, {"epoch": epoch, OBJECTIVE: score}))


def finished(index: int, *scores: float, loss: float = 0.25) -> Trial:
    epochs = tuple(metrics(number, score, loss=loss) for number, score in enumerate(scores, start=1))
    return Trial(index=index, values={}, status="finished", epochs=epochs)


def test_without_pruning_no_trial_is_stopped(make_spec: MakeSpec) -> None:
    assert type(make_scheduler(make_spec(prune=False), [finished(0, 0.5)])) is FIFOScheduler


def test_a_poor_trial_is_stopped_at_the_first_rung(make_spec: MakeSpec) -> None:
    spec = make_spec()
    assert spec.rungs == (1, 3)
    scheduler = make_scheduler(spec, [])
    assert type(scheduler) is ASHAScheduler
    told = [decision(scheduler, name, 1, score) for name, score in (("a", 0.2), ("b", 0.3), ("c", 0.4), ("d", 0.1))]
    assert told == ["CONTINUE", "CONTINUE", "CONTINUE", "STOP"]
    assert decision(scheduler, "c", 2, 0.0) == "CONTINUE"  # between two rungs


def test_the_scheduler_knows_the_trials_of_an_earlier_command(make_spec: MakeSpec) -> None:
    known = [finished(index, score, score, score) for index, score in enumerate((0.2, 0.3, 0.4))]
    anew, later = make_scheduler(make_spec(), []), make_scheduler(make_spec(), known)
    assert decision(anew, "x", 1, 0.3) == "CONTINUE"
    assert decision(later, "x", 1, 0.3) == "STOP"
    assert decision(later, "y", 1, 0.5) == "CONTINUE"
    # One that has not ended will tell for itself.
    unfinished = [replace(trial, status="running") for trial in known]
    assert decision(make_scheduler(make_spec(), unfinished), "x", 1, 0.3) == "CONTINUE"


def test_the_validation_loss_tells_trials_of_equal_scores_apart(make_spec: MakeSpec) -> None:
    tied = make_scheduler(make_spec(), [finished(index, 0.2, loss=loss) for index, loss in enumerate((1.0, 2.0))])
    assert decision(tied, "x", 1, objective(metrics(1, 0.2, loss=3.0))) == "STOP"
    assert decision(tied, "y", 1, objective(metrics(1, 0.2, loss=0.5))) == "CONTINUE"


class FakeTune:
    """Takes what Ray Tune would be given, and may fail as it does."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.error: BaseException | None = None
        self.errors: list[Exception] = []
        self.lost = threading.Event()
        self.tune_config: Any = None
        self.run_config: Any = None
        patch.setattr(tune, "Tuner", self.make)
        patch.setattr(tune, "with_parameters", lambda function, **parameters: (function, parameters))
        patch.setattr(tune, "with_resources", lambda trainable, resources: (*trainable, resources))
        patch.setattr(module, "end_ray_job", lambda: self.calls.append("end"))
        patch.setattr(module, "driver_resource", lambda: "node:10.0.0.1")
        patch.setattr(module, "wait_for_trainers", lambda seconds: self.calls.append("wait"))

    def make(self, trainable: Any, *, tune_config: Any, run_config: Any) -> Any:
        self.trainable, self.tune_config, self.run_config = trainable, tune_config, run_config
        return self

    def fit(self) -> None:
        self.calls.append("fit")
        if self.error is not None:
            raise self.error

    def check(self) -> None:
        self.calls.append("check")
        if self.lost.is_set():
            raise RunLockedError("search s1 was taken over")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTune:
    return FakeTune(monkeypatch)


@pytest.fixture
def run(fake: FakeTune, make_spec: MakeSpec, make_job: Callable[..., Job]) -> Callable[[], TrialTemplate]:
    """Runs three missing trials, two at once."""

    def run() -> TrialTemplate:
        spec = make_spec()
        config = replace(spec.config, cluster=ClusterConfig(max_failures=5))
        template = TrialTemplate(make_job(0), JobResources(1, 1, 0))
        callback: Any = SimpleNamespace(trials=[finished(0, 0.5)], errors=fake.errors)
        run_trials(replace(spec, config=config), template, callback, trials=3, concurrency=2, lock=fake)  # type: ignore[arg-type]
        return template

    return run


def test_what_ray_tune_is_asked_for(fake: FakeTune, run: Callable[[], TrialTemplate]) -> None:
    template = run()
    # A trial takes nothing but a little of the driver's node: its ranks take CPUs and GPUs.
    assert fake.trainable == (module.run_trial, {"template": template}, {"node:10.0.0.1": 0.001})
    assert (fake.tune_config.num_samples, fake.tune_config.max_concurrent_trials) == (3, 2)
    assert isinstance(fake.tune_config.search_alg, TrialSearcher)
    assert fake.run_config.failure_config.max_failures == 5
    assert isinstance(fake.run_config.progress_reporter, tune.CLIReporter)  # in a notebook, too
    assert fake.calls == ["fit", "wait", "check"]  # stopped trials may still write


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("Ray died")])
def test_an_interrupted_search_leaves_no_trial_running(
    fake: FakeTune, run: Callable[[], TrialTemplate], error: BaseException
) -> None:
    fake.error = error
    with pytest.raises(type(error)):
        run()
    assert fake.calls == ["fit", "end"]


def test_a_lost_lock_ends_the_search(fake: FakeTune, run: Callable[[], TrialTemplate]) -> None:
    run()
    stop = fake.run_config.stop
    assert not stop("trial", {})
    assert not stop.stop_all()
    fake.lost.set()
    assert stop.stop_all()
    fake.calls.clear()
    with pytest.raises(RunLockedError):
        run()
    assert fake.calls == ["fit", "wait", "check", "end"]


def test_a_full_disk_is_told_in_a_line(fake: FakeTune, run: Callable[[], TrialTemplate]) -> None:
    fake.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as Tune's own files meet it
    with pytest.raises(StorageError, match="^temporary files cannot be written to .*: No space left on device; free"):
        run()
    assert fake.calls == ["fit", "end"]
    fake.error = ConnectionResetError(errno.ECONNRESET, "reset")
    with pytest.raises(ConnectionResetError):
        run()


@pytest.mark.parametrize("raised", [True, False], ids=["by a text of Tune's", "as a failure of the trial"])
def test_an_error_of_a_hook_is_raised_as_itself(fake: FakeTune, run: Callable[[], TrialTemplate], raised: bool) -> None:
    run()
    stop = fake.run_config.stop
    assert not stop.stop_all()
    fake.calls.clear()
    fake.errors += [StorageError("the store is away"), RuntimeError("of a later call")]
    assert stop.stop_all()
    fake.error = TuneError("Traceback ...\nStorageError: the store is away") if raised else None
    with pytest.raises(StorageError, match="^the store is away$"):
        run()
    assert fake.calls == ["fit", "end"]
