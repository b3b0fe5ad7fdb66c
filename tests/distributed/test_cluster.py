"""The Ray cluster: which one is joined, what is started here, and what is known of its nodes."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, nullcontext
from pathlib import Path

import pytest
import yaml

from saltray.distributed import cluster
from saltray.distributed.cluster import (
    ENVIRONMENT,
    SINGLE_MACHINE_ONLY,
    answers,
    driver_resource,
    joins_cluster,
    nodes_possible,
    nodes_present,
    ray_cluster,
    set_environment,
    short_folder,
)
from saltray.distributed.ray_internals import node_here
from saltray.errors import ConfigError, ResourceError

DRIVER = """
import ray  # before saltray: Ray has read its environment then
import os, random, signal, sys
from ray._private.state import state
from saltray.distributed.cluster import ray_cluster

disconnect = state.disconnect
def terminate_first():
    os.kill(os.getpid(), signal.SIGTERM)
    disconnect()

signal.signal(signal.SIGTERM, lambda number, frame: print("SIGTERM"))
with ray_cluster(num_cpus=1):
    path = ray.get(ray.remote(lambda: (__import__("random").__file__, __import__("sys").path)).remote())
    print(path[0] == random.__file__, os.getcwd() in path[1], os.path.dirname(os.path.realpath(__file__)) in path[1])
    print(ray.get_runtime_context().runtime_env["py_executable"])
    os.kill(os.getpid(), signal.SIGTERM)
    print(ray.cluster_resources()["CPU"])
    state.disconnect = terminate_first  # in the midst of `ray.shutdown`
state.disconnect = disconnect
os.kill(os.getpid(), signal.SIGTERM)
print(ray.is_initialized())
"""
GROWABLE = {
    "max_workers": 2,
    "head_node_type": "head",
    "available_node_types": {"head": {"resources": {"CPU": 0}}, "one": {"resources": {"GPU": 4}}, "unknown": {}},
}


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
    assert lines == ["SIGTERM", "1.0", "SIGTERM", "SIGTERM", "False"]


@pytest.mark.parametrize("address", ["", "local", "10.0.0.1:6379"])
def test_what_ray_reads_from_the_environment(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"RAY_TRAIN_METRICS_ENABLED": "1", "RAY_ADDRESS": address}
    monkeypatch.setattr(os, "environ", given.copy())
    set_environment()
    joins = address == "10.0.0.1:6379"
    assert joins_cluster() == joins
    left_out = SINGLE_MACHINE_ONLY if joins else set()
    assert os.environ == {name: value for name, value in ENVIRONMENT.items() if name not in left_out} | given


REFUSED = {
    "http://127.0.0.1:8265": "which is for `ray job submit`; unset it to run here",
    "ray://127.0.0.1:10001": "which is for Ray Client; unset it to run here",
    "junk": "Invalid address format: junk; unset it",
    "127.0.0.1:junk": "invalid literal for int",
    "127.0.0.1:1": "Connection refused; unset it",
    " ": "unset it",
}


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_where_no_cluster_is_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal_of(address, REFUSED[address], monkeypatch)


def refusal_of(address: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining the cluster of this address is refused, before Ray tries it."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray waits for minutes"))
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError) as caught:
        ray_cluster().__enter__()
    assert f"RAY_ADDRESS is {address}" in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not the head of a Ray cluster"),
        (b"", "is not the head of a Ray cluster"),
        (None, "timed out"),
        (b"\0\0\0\4\0\0\0\0\0", "no Ray node runs on this machine"),
    ],
    ids=["http", "closed", "silent", "grpc"],
)
def test_what_answers_must_be_a_cluster_with_a_node_here(
    answer: bytes | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ANSWER_S", 0.2 if answer is None else 60.0)
    monkeypatch.setattr("saltray.distributed.ray_internals.node_here", lambda: False)
    release = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr("saltray.distributed.ray_internals.head_address", lambda: f"127.0.0.1:{port}")

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(64).startswith(b"PRI * HTTP/2.0")
                release.wait(60) if answer is None else connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        refusal_of(f"127.0.0.1:{port}", reason, monkeypatch)
        release.set()
        thread.join()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_the_head_of_a_real_cluster_answers() -> None:
    import ray

    assert answers(ray.get_runtime_context().gcs_address)
    assert node_here()


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


def test_a_job_on_the_head_node_knows_what_the_cluster_can_grow_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(GROWABLE))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert nodes_possible() == []
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert nodes_possible() == [{"CPU": 0}, {"GPU": 4}, {"GPU": 4}]
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    assert nodes_possible() == []
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a container's user may have no entry either
    assert nodes_possible() == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_ray_of_the_caller_is_used_and_left_as_it_is() -> None:
    import ray

    with ray_cluster(num_cpus=77) as where:
        assert where == "Ray on this machine"
    assert ray.is_initialized()
    (node,) = nodes_present()
    assert node["CPU"] == ray.cluster_resources()["CPU"] != 77


def test_dead_nodes_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"NodeID": name, "Alive": name == "a", "Resources": {"CPU": 1.0}} for name in ("a", "b")]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    assert nodes_present() == [{"CPU": 1.0}]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_the_resource_of_the_drivers_node_places_a_task_there() -> None:
    import ray

    name = driver_resource()
    assert name.startswith("node:")
    where = ray.remote(num_cpus=0, resources={name: 0.001})(lambda: ray.get_runtime_context().get_node_id())
    assert ray.get(where.remote(), timeout=60) == ray.get_runtime_context().get_node_id()


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_trainers_are_killed_and_waited_for(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = ["controller"]
    asked: list[tuple[str, ...]] = []

    def live_actors(*classes: str) -> list[str]:
        asked.append(classes)
        return list(alive)

    def kill_actor(actor: str) -> None:
        alive.remove(actor)

    monkeypatch.setattr("saltray.distributed.ray_internals.live_actors", live_actors)
    monkeypatch.setattr("saltray.distributed.ray_internals.kill_actor", kill_actor)
    monkeypatch.setattr(cluster.time, "sleep", lambda _: cluster.kill_trainers())
    cluster.wait_for_trainers(seconds)
    assert asked[0] == ("TrainController", "RayTrainWorker")
    assert alive == (["controller"] if seconds == 0 else [])
