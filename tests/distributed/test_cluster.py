"""The Ray cluster: which one is joined, what is started here, and what is known of its nodes."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, nullcontext
from pathlib import Path

import pytest

from saltray.distributed import cluster
from saltray.distributed.cluster import (
    ENVIRONMENT,
    SINGLE_MACHINE_ONLY,
    ray_cluster,
    set_environment,
    short_folder,
    some_home,
)
from saltray.distributed.nodes import nodes_present
from saltray.distributed.ray_internals import RayDied
from saltray.errors import ConfigError, ResourceError

DRIVER = """
import ray  # before saltray: Ray has read its environment then
import os, random, signal, sys
from pathlib import Path
from ray._private.state import state
from saltray.distributed.cluster import ray_cluster

disconnect = state.disconnect
def terminate_first():
    os.kill(os.getpid(), signal.SIGTERM)
    disconnect()

def work():
    print("printed by a worker")
    return __import__("random").__file__, __import__("sys").path

events = []
signal.signal(signal.SIGTERM, lambda number, frame: print("SIGTERM"))
with ray_cluster(num_cpus=1, observer=events.append):
    path = ray.get(ray.remote(work).remote())
    print(path[0] == random.__file__, os.getcwd() in path[1], os.path.dirname(os.path.realpath(__file__)) in path[1])
    print(ray.get_runtime_context().runtime_env["py_executable"])
    os.kill(os.getpid(), signal.SIGTERM)
    print(ray.cluster_resources()["CPU"])
    state.disconnect = terminate_first  # in the midst of `ray.shutdown`
state.disconnect = disconnect
os.kill(os.getpid(), signal.SIGTERM)
print(ray.is_initialized())
[connected] = events
output = "".join(log.read_text() for log in Path(connected.logs).glob("worker*.out"))
print(connected.where, "printed by a worker" in output)
"""
VERBOSE = """
import io, logging, sys, time
import ray
from contextlib import redirect_stdout
from saltray.distributed.cluster import ray_cluster

logging.getLogger("saltray").setLevel(logging.DEBUG)
with redirect_stdout(io.StringIO()) as output, ray_cluster(num_cpus=1):
    ray.get(ray.remote(lambda: print("printed by a worker")).remote())
    while "printed by a worker" not in output.getvalue():
        time.sleep(0.05)
"""


@pytest.mark.ray
def test_a_ray_of_our_own_forks_its_workers_in_any_folder_without_a_home_and_under_uv_run(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "driver.py").write_text(DRIVER)
    for name in ("random", "queue", "numpy", "signal", "requests"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not the one you want')")
    # Ray looks for an ancestor with the command line `uv run ...`.
    (tmp_path / "run").write_text(f"{sys.executable} scripts/driver.py\nexit $?\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "UV_"))}
    done = subprocess.run(
        ["bash", "-c", "exec -a uv bash run"],
        cwd=tmp_path,
        env=environment | {"HOME": "/dev/null"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    imported, executable, *lines = done.stdout.splitlines()
    assert imported == "True False False"  # the random module is Python's, and no folder of the user's is looked into
    assert "fork_server.py ask" in executable
    # The caller's handler of SIGTERM stays, while Ray ends and afterwards.
    assert lines == ["SIGTERM", "1.0", "SIGTERM", "SIGTERM", "False", "Ray on this machine True"]


@pytest.mark.ray
def test_at_the_level_debug_the_output_of_workers_is_shown(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    subprocess.run([sys.executable, "-c", VERBOSE], cwd=tmp_path, env=environment, timeout=120, check=True)


@pytest.mark.parametrize("single_machine", [True, False])
def test_what_ray_reads_from_the_environment(single_machine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"RAY_TRAIN_METRICS_ENABLED": "1", "GLOO_SOCKET_IFNAME": "eth7"}
    monkeypatch.setattr(os, "environ", given.copy())
    set_environment(single_machine=single_machine)
    assert os.environ == ENVIRONMENT | (SINGLE_MACHINE_ONLY if single_machine else {}) | given


@pytest.mark.parametrize(("address", "connected"), [("", False), ("", True), ("10.0.0.1:6379", False)])
def test_only_a_ray_that_is_started_here_is_told_that_the_machine_is_single(
    address: str, connected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StartedError(Exception):
        pass

    def connect(*_: object, **__: object) -> None:
        raise StartedError

    monkeypatch.setattr("ray.is_initialized", lambda: connected)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr("saltray.distributed.ray_internals.own_token", nullcontext)
    monkeypatch.setattr(cluster, "check_address", lambda address: None)
    monkeypatch.setattr(cluster, "_connect", connect)
    for name in SINGLE_MACHINE_ONLY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with nullcontext() if connected else pytest.raises(StartedError), ray_cluster():
        pass
    assert (os.environ.keys() >= SINGLE_MACHINE_ONLY.keys()) == (not connected and not address)
    assert bool(os.environ.keys() & SINGLE_MACHINE_ONLY.keys()) == (not connected and not address)


def test_a_home_that_is_missing_is_a_folder_of_the_users_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    with some_home():
        assert os.environ["HOME"] == "/somewhere"
    monkeypatch.delenv("HOME")
    with some_home():  # of the user's entry in /etc/passwd
        assert "HOME" not in os.environ
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(KeyboardInterrupt), some_home():
        home = Path.home()
        assert home.stat().st_mode & 0o777 == 0o700
        assert not list(home.iterdir())
        raise KeyboardInterrupt
    assert not home.exists()
    assert "HOME" not in os.environ


def test_ray_has_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train is not even imported without one."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    with ray_cluster():
        assert Path.home().is_dir()


def test_why_ray_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise RuntimeError("\nThe raylet died.\nIts log:\n  ...")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", fail)
    # The tests' own Ray reads its token anew when another is set.
    monkeypatch.setattr("saltray.distributed.ray_internals.own_token", nullcontext)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(
        ResourceError, match=r"^Ray does not start on this machine: The raylet died; its logs are in .+/ray$"
    ):
        ray_cluster().__enter__()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_thread_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: True)

    monkeypatch.setattr(cluster, "_one_thread", threading.RLock())  # the tests share a Ray, whose block is left last

    def elsewhere() -> str:
        with ray_cluster() as where:
            return where

    with ThreadPoolExecutor() as pool:
        with (
            ray_cluster(),
            ray_cluster(),
            pytest.raises(ResourceError, match="a process has one Ray; run them one after"),
        ):
            pool.submit(elsewhere).result()
        assert pool.submit(elsewhere).result() == "Ray on this machine"


@pytest.mark.parametrize("name", ["a" * 60, "a b", "ä", "nowhere", "file"])
def test_a_folder_in_which_ray_cannot_start_is_passed_over(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as base, chdir(base):
        Path("file").touch()
        Path("short").mkdir()
        if name not in ("nowhere", "file"):
            Path(name).mkdir()
        monkeypatch.setenv("TMPDIR", "short")
        assert short_folder() == Path(base).resolve() / "short"
        assert caplog.text == ""
        monkeypatch.setenv("TMPDIR", f"{base}/{name}")
        assert short_folder() == Path("/tmp")
        assert f"Ray cannot start in {base}/{name}" in caplog.text
        assert "its files are in /tmp" in caplog.text


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", raise_full)
    with pytest.raises(ResourceError, match="set TMPDIR to one, of at most 38 characters"):
        short_folder()


def raise_full(**_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `set_environment` sets before Ray is connected to, for one test."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("environment")
def test_a_signal_while_ray_starts_reaches_the_callers_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # as Ray does
        signal.raise_signal(signal.SIGTERM)

    received: list[int] = []
    monkeypatch.setattr("ray.init", init)
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        cluster._connect(ConfigError)
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("environment")
def test_a_handler_that_is_not_pythons_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.init", lambda **settings: None)
    monkeypatch.setattr(signal, "getsignal", lambda number: None)  # as where a C library has set one
    cluster._connect(ConfigError)


@pytest.mark.usefixtures("environment")
def test_other_versions_on_the_cluster_are_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: object) -> None:
        raise RuntimeError(
            "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.12.1\n"
            "This process on 10.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
        )

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(
        ConfigError, match=r"^Version .* Ray: 2.60.0 Python: 3.12.1 This .* Ray: 2.60.0 Python: 3.11.7$"
    ):
        cluster._connect(ConfigError)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_ray_of_the_caller_is_used_and_left_as_it_is() -> None:
    import ray

    with ray_cluster(num_cpus=77) as where:
        assert where == "Ray on this machine"
    assert ray.is_initialized()
    (node,) = nodes_present()
    assert node["CPU"] == ray.cluster_resources()["CPU"] != 77


class FakeJob:
    """A Ray job whose thread starts a trainer late, whose placement group appears after its death."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.actors = ["controller"]
        self.ranks: list[str] = []
        self.groups = 1
        self.fault: BaseException | None = None
        self.calls: list[str] = []
        self.looks = 0
        for name in ("live_actors", "kill_actor", "kill_ray", "remove_placement_groups", "shut_down"):
            patch.setattr(f"saltray.distributed.ray_internals.{name}", getattr(self, name))
        patch.setattr(cluster, "LOOK_S", 0.001)

    def live_actors(self, *classes: str) -> list[str]:
        if classes:
            assert classes == ("TrainController", "RayTrainWorker")
            return self.ranks
        self.looks += 1
        if self.fault is not None:
            raise self.fault
        if self.looks == 2:
            self.actors.append("late controller")
        return [*self.actors, "one of the cluster"]

    def kill_actor(self, actor: str) -> bool:
        if actor == "one of the cluster":
            return False
        self.calls.append(f"kill {actor}")
        self.actors.remove(actor)
        return True

    def remove_placement_groups(self) -> int:
        count, self.groups = self.groups, int(self.looks == 3)
        self.calls += ["remove"] * count
        return count

    def kill_ray(self) -> None:
        self.calls.append("kill Ray")

    def shut_down(self) -> None:
        self.calls.append("shut down")


@pytest.fixture
def fake_job(monkeypatch: pytest.MonkeyPatch) -> FakeJob:
    return FakeJob(monkeypatch)


def test_a_job_is_ended_with_what_appears_late(fake_job: FakeJob) -> None:
    cluster.end_ray_job()
    assert fake_job.calls == ["kill controller", "remove", "kill late controller", "remove", "shut down"]
    assert fake_job.looks == 4 + cluster.QUIET_LOOKS


def test_a_job_is_ended_once_its_ranks_are(fake_job: FakeJob) -> None:
    fake_job.ranks = ["rank"]
    waiter = threading.Thread(target=cluster.end_ray_job)
    waiter.start()
    while fake_job.looks < 20:
        assert "shut down" not in fake_job.calls
    fake_job.ranks = []
    waiter.join(30)
    assert fake_job.calls[-1] == "shut down"
    assert "kill Ray" not in fake_job.calls


def test_a_job_is_ended_once_its_threads_are(fake_job: FakeJob) -> None:
    released = threading.Event()
    thread = threading.Thread(target=released.wait, daemon=True)
    thread.start()
    waiter = threading.Thread(target=cluster.end_ray_job, args=([thread],))
    waiter.start()
    while fake_job.looks < 20:
        assert "shut down" not in fake_job.calls
    released.set()
    waiter.join(30)
    assert fake_job.calls[-1] == "shut down"


def test_threads_that_do_not_end_keep_nobody_waiting(fake_job: FakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "END_S", 0.2)
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    cluster.end_ray_job([thread])
    assert fake_job.calls[-2:] == ["kill Ray", "shut down"]


def test_ray_is_left_where_it_does_not_answer(fake_job: FakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "END_S", 0.2)
    fake_job.fault = RuntimeError("the GCS is away")
    cluster.end_ray_job()
    assert fake_job.calls == ["kill Ray", "shut down"]
    assert fake_job.looks > 1  # it may be away for a moment


def test_the_rest_of_a_ray_that_has_died_is_killed(fake_job: FakeJob) -> None:
    fake_job.fault = RayDied("its GCS was killed by SIGKILL")
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, daemon=True)
    thread.start()
    waiter = threading.Thread(target=cluster.end_ray_job, args=([thread],))
    waiter.start()
    while "kill Ray" not in fake_job.calls:
        assert waiter.is_alive()
    assert "shut down" not in fake_job.calls  # the thread would touch Ray afterwards
    ended.set()
    waiter.join(30)
    assert (fake_job.calls, fake_job.looks) == (["kill Ray", "shut down"], 1)


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_trainers_are_waited_for(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = ["controller"]
    asked: list[tuple[str, ...]] = []

    def live_actors(*classes: str) -> list[str]:
        asked.append(classes)
        return list(alive)

    monkeypatch.setattr("saltray.distributed.ray_internals.live_actors", live_actors)
    monkeypatch.setattr(cluster.time, "sleep", lambda _: alive.clear())
    cluster.wait_for_trainers(seconds)
    assert asked[0] == ("TrainController", "RayTrainWorker")
    assert alive == (["controller"] if seconds == 0 else [])
