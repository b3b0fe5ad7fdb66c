"""What is told of a process of Ray's that died: real processes, ended by each signal."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray.exceptions import ActorDiedError

from saltray.distributed import process_death as module
from saltray.distributed.capacity import JobResources
from saltray.distributed.jobs import Job, LoopConfig
from saltray.distributed.process_death import fault_in, process_death, rank_deaths
from saltray.distributed.trainer import failure_reason, run_job

LOG = """:job_id:01000000
*** SIGSEGV received at time=1795725473 on cpu 1 ***
PC: @     0x7f721a84b7d8  (unknown)  dnnl::impl::jit_convolution_t::execute()::{lambda()#1}::operator()()
    @     0x7f72b2a5a050       3568  (unknown)
[2026-11-26 20:37:53,296 E 27901 28123] logging.cc:474: *** SIGSEGV received at time=1795725473 on cpu 1 ***
Fatal Python error: Segmentation fault

Stack (most recent call first):
  File "/v/lib/python3.11/site-packages/torch/autograd/graph.py", line 1113 in _engine_run_backward
  File "/home/me/saltray/training/engine.py", line 109 in train_step

Extension modules: numpy._core._multiarray_umath (total: 1)
"""


def test_the_fault_that_a_process_wrote_is_found() -> None:
    fault = fault_in(LOG)
    assert fault is not None
    assert fault.reason == (
        "SIGSEGV in dnnl::impl::jit_convolution_t::execute "
        "(torch/autograd/graph.py:1113 _engine_run_backward, saltray/training/engine.py:109 train_step)"
    )
    assert fault.log.startswith("*** SIGSEGV received")
    assert fault.log.endswith("in train_step")


def test_a_fault_without_frames_and_a_log_without_a_fault() -> None:
    fault = fault_in("Fatal Python error: Bus error\n")
    assert fault is not None
    assert fault.reason == "Bus error"
    assert fault_in(":job_id:01000000\nTraceback ...\nValueError: it broke\n") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pid: 7\n\tip: 10.0.0.9\nthe node was running low on memory", "on 10.0.0.9 was killed, most likely because"),
        ("pid: 7\n\tip: 10.0.0.9\nThe actor died because its node has died.", None),
        ("it has no process", None),
    ],
)
def test_what_ray_knows_itself(text: str, told: str | None) -> None:
    death = process_death(f"The actor died.\n\t{text}")
    assert (death.reason[: len(told)] if death and told else death) == told


def test_another_error_is_no_death() -> None:
    assert rank_deaths("Training failed due to worker errors:\n[Rank 0 Error Snippet]:\nValueError: it broke") == {}


@pytest.mark.parametrize(
    ("head", "name"),
    [("worker errors:\n[Rank 1 Error Snippet]:", "rank 1"), ("controller error:", "a rank")],
)
def test_the_rank_is_named_where_ray_names_it(head: str, name: str) -> None:
    text = f"Training failed due to {head}\nThe actor died.\n\tpid: 7\n\tip: 10.0.0.9\nIt was low on memory."
    assert list(rank_deaths(text)) == [name]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGKILL])
def test_a_process_that_dies_of_a_signal_says_so(number: signal.Signals) -> None:
    @ray.remote(num_cpus=0, max_restarts=0)
    class Victim:
        def die(self, number: int) -> None:
            os.kill(os.getpid(), number)

    victim = Victim.remote()  # type: ignore[attr-defined]
    with pytest.raises(ActorDiedError) as caught:
        ray.get(victim.die.remote(int(number)))
    death = process_death(str(caught.value))
    assert death is not None
    here = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    if number == signal.SIGKILL:
        assert death.reason.startswith(f"on {here} was killed, most likely because memory was short; lower ")
        return
    assert death.reason.startswith(f"on {here} died of {number.name} ")
    assert "test_process_death.py:" in death.reason
    assert f"{number.name} received" in death.log


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_the_rank_and_where_it_died_are_told_and_kept(make_job: Callable[..., Job]) -> None:
    job = make_job(3)

    def loop(loop_config: LoopConfig) -> None:
        import ctypes
        import time

        import ray.train

        if ray.train.get_context().get_world_rank() == 1:
            ctypes.string_at(0)
        time.sleep(60)

    with pytest.raises(Exception, match="Training failed") as caught:
        run_job(loop, job, JobResources(2, 0.5, 0))
    reason = failure_reason(job, caught.value)
    here = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    # Ray names the rank once all have started.
    assert re.match(rf"(rank 1|a rank) on {re.escape(here)} died of SIGSEGV", reason)
    assert " string_at, " in reason
    assert "memory was short" not in reason
    kept = job.home.get("error.txt").decode()
    assert "Fatal Python error: Segmentation fault" in kept
    assert kept.splitlines()[-1] == reason.partition(" (full text")[0]


def test_the_log_of_a_node_that_died_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not asked: a task for it would wait in Ray's queue for ever."""
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "10.0.0.1")
    monkeypatch.setattr(module, "live_nodes", lambda: [{"NodeManagerAddress": "10.0.0.2"}])
    monkeypatch.setattr(module, "ask_node", lambda *_: pytest.fail("it is asked"))
    death = process_death("The actor died.\n\tpid: 7\n\tip: 10.0.0.9\nconnection error code 2")
    assert death is not None
    assert death.reason == "on 10.0.0.9 died, and its log there cannot be read"


def test_a_log_that_was_deleted_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "10.0.0.1")
    monkeypatch.setattr(module, "logs_folder", lambda: str(tmp_path))
    (tmp_path / "worker-a-01000000-7.err").symlink_to("nowhere")
    death = process_death("The actor died.\n\tpid: 7\n\tip: 10.0.0.1\nconnection error code 2")
    assert death is not None
    assert death.reason == "on 10.0.0.1 died, and its log there cannot be read"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_log_is_read_on_the_node_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    @ray.remote(num_cpus=0, max_restarts=0)
    class Victim:
        def die(self) -> None:
            os.kill(os.getpid(), signal.SIGABRT)

    victim = Victim.remote()  # type: ignore[attr-defined]
    with pytest.raises(ActorDiedError) as caught:
        ray.get(victim.die.remote())
    here = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "10.0.0.1")  # the driver is elsewhere
    death = process_death(str(caught.value))
    assert death is not None
    assert death.reason.startswith(f"on {here} died of SIGABRT ")
    monkeypatch.setattr(module, "READ_S", 0.0)
    death = process_death(str(caught.value))
    assert death is not None
    assert death.reason.endswith("its log there cannot be read")
