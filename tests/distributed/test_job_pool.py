"""Several jobs at once, and their end when the driver is interrupted. Ray itself stands aside here."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from saltray.distributed import job_pool
from saltray.distributed.capacity import JobResources
from saltray.distributed.job_pool import JobPool
from saltray.distributed.jobs import Job, LoopConfig

RESOURCES = JobResources(2, 1, 0)
MakeJob = Callable[..., Job]


def loop(loop_config: LoopConfig) -> None:
    """What the ranks would run."""


class FakeRay:
    """Runs jobs until they are told to end or killed, and notes what the pool does to Ray."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ends: dict[str, threading.Event] = {}
        self.values: dict[str, Any] = {}
        self.started = threading.Semaphore(0)
        self.calls: list[Any] = []
        self.ranks: list[str] = []
        self.away = False
        patch.setattr(job_pool, "run_job", self.run_job)
        patch.setattr(job_pool, "end_ray_job", self.end_ray_job)
        patch.setattr(job_pool, "remove_orphaned_placement_groups", self.remove)
        patch.setattr(job_pool, "live_actors", self.live_actors)

    def remove(self) -> None:
        self.calls.append("remove")
        self.ask()

    def live_actors(self, *classes: str) -> list[str]:
        assert classes == ("RayTrainWorker",)
        self.ask()
        return self.ranks

    def ask(self) -> None:
        if self.away:
            raise RuntimeError("RpcError: the GCS is away")

    def run_job(self, train_loop: Any, job: Job, resources: JobResources) -> Any:
        self.calls.append((train_loop, job.name, resources))
        self.ends[job.name] = threading.Event()
        self.started.release()
        assert self.ends[job.name].wait(30)
        value = self.values.get(job.name, f"result of {job.name}")
        if isinstance(value, Exception):
            raise value
        return value

    def end(self, name: str, value: Any = None) -> None:
        if value is not None:
            self.values[name] = value
        self.ends[name].set()

    def end_ray_job(self, threads: list[threading.Thread]) -> None:
        self.calls.append("end")
        for name in self.ends:
            self.end(name, RuntimeError("the controller was killed"))
        for thread in threads:
            thread.join(30)

    def wait_for(self, jobs: int) -> None:
        for _ in range(jobs):
            assert self.started.acquire(timeout=30)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    return FakeRay(monkeypatch)


def test_jobs_run_at_once_and_come_back_as_they_end(fake: FakeRay, make_job: MakeJob) -> None:
    fault = RuntimeError("a worker died")
    with JobPool(RESOURCES) as pool:
        for fold in (0, 1):
            pool.start(loop, make_job(fold))
        fake.wait_for(2)
        assert pool.wait(0.0) is None
        fake.end("fold-1")
        first = pool.wait(30)
        fake.end("fold-0", fault)
        second = pool.wait(30)
    assert first is not None
    assert second is not None
    assert (first.job.name, first.value) == ("fold-1", "result of fold-1")
    assert (second.job.name, second.value) == ("fold-0", fault)
    started = [call for call in fake.calls if isinstance(call, tuple)]
    assert sorted(started, key=lambda call: call[1]) == [(loop, "fold-0", RESOURCES), (loop, "fold-1", RESOURCES)]
    assert fake.calls.count("remove") == 3  # once per look
    assert "end" not in fake.calls


def test_a_gcs_that_is_away_for_a_moment_ends_no_job(fake: FakeRay, make_job: MakeJob) -> None:
    fake.away = True
    with JobPool(RESOURCES) as pool:
        pool.start(loop, make_job(0))
        fake.wait_for(1)
        assert pool.wait(0.0) is None
        assert not pool.lacks_ranks()
        fake.end("fold-0")
        ended = pool.wait(30)
    assert ended is not None
    assert ended.value == "result of fold-0"


def test_a_pool_lacks_ranks_while_a_job_lacks_a_rank(fake: FakeRay, make_job: MakeJob) -> None:
    with JobPool(RESOURCES) as pool:
        assert not pool.lacks_ranks()
        pool.start(loop, make_job(0))
        fake.wait_for(1)
        for fake.ranks in ([], ["a"]):
            assert pool.lacks_ranks()
        fake.ranks = ["a", "b"]
        assert not pool.lacks_ranks()
        fake.end("fold-0")
        pool.wait(30)


def test_an_interrupt_ends_all_jobs_and_the_connection_to_ray(fake: FakeRay, make_job: MakeJob) -> None:
    with pytest.raises(KeyboardInterrupt), JobPool(RESOURCES) as pool:
        for fold in (0, 1):
            pool.start(loop, make_job(fold))
        fake.wait_for(2)
        raise KeyboardInterrupt
    assert fake.calls[-1] == "end"
    assert not [thread for thread in pool._threads if thread.is_alive()]
    assert all(thread.daemon for thread in pool._threads)  # the process does not wait for one that does not end
