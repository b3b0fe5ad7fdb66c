"""The death of Ray's own processes, here of stand-ins; tests/faults kills the real ones."""

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from saltray.distributed.ray_internals import RayDied, check_alive, live_actors, shut_down
from saltray.distributed.ray_watch import ray_watched
from saltray.errors import ResourceError


class FakeNode:
    """The node of a Ray that was started here, with one process."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.process = subprocess.Popen(["sleep", "600"])

    def dead_processes(self) -> list[tuple[str, Any]]:
        return [(self.kind, self.process)] if self.process.poll() is not None else []


@pytest.fixture
def node(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    node = FakeNode(getattr(request, "param", "raylet"))
    monkeypatch.setattr(ray._private.worker, "_global_node", node)
    yield node
    node.process.kill()
    node.process.wait()


@pytest.mark.parametrize(("node", "name"), [("raylet", "raylet"), ("gcs_server", "GCS")], indirect=["node"])
def test_a_wait_ends_when_a_process_dies(node: FakeNode, name: str) -> None:
    waits = threading.Event()

    def kill() -> None:
        waits.wait()
        node.process.kill()

    threading.Thread(target=kill, daemon=True).start()
    before = signal.getsignal(signal.SIGURG)
    message = (
        rf"^Ray on this machine has died: its {name} was killed by SIGKILL, .*run the same command again to resume$"
    )
    with pytest.raises(ResourceError, match=message), ray_watched():
        waits.set()
        threading.Event().wait(60)
        pytest.fail("was not interrupted")
    assert signal.getsignal(signal.SIGURG) == before


def test_a_plain_interrupt_that_ray_makes_of_it_is_told_alike(node: FakeNode) -> None:
    with pytest.raises(ResourceError, match="its raylet was killed"), ray_watched():
        node.process.kill()
        try:
            threading.Event().wait(60)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None


@pytest.mark.usefixtures("node")
def test_an_interrupt_of_the_user_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt), ray_watched():
        raise KeyboardInterrupt


@pytest.mark.parametrize("node", ["log_monitor"], indirect=True)
def test_other_processes_may_die(node: FakeNode) -> None:
    node.process.kill()
    node.process.wait()
    with ray_watched():
        check_alive()


def test_ray_is_not_asked_once_it_has_died(node: FakeNode) -> None:
    node.process.terminate()
    node.process.wait()
    with pytest.raises(RayDied, match="^its raylet was killed by SIGTERM$"):
        live_actors()


def test_nobody_is_told_of_processes_that_end_when_ray_is_shut_down(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray._private.state.state, "disconnect", lambda: None)  # that of the tests' own Ray stays

    def shutdown() -> None:  # in Ray's order
        ray._private.state.state.disconnect()
        node.process.kill()
        node.process.wait()
        time.sleep(1)  # the watch looks twice a second
        monkeypatch.setattr(ray._private.worker, "_global_node", None)

    monkeypatch.setattr(ray, "shutdown", shutdown)
    with ray_watched():
        shut_down()


def test_in_another_thread_the_next_question_tells(node: FakeNode) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with ray_watched():
                node.process.kill()
                node.process.wait()
                check_alive()
        except ResourceError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert len(errors) == 1
