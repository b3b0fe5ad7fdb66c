"""The address of a cluster: what is no cluster is refused at once."""

import socket
import threading

import pytest

from saltray.distributed import address as module
from saltray.distributed.address import answers, joins_cluster
from saltray.distributed.cluster import ray_cluster
from saltray.distributed.ray_internals import node_here
from saltray.errors import ConfigError


@pytest.mark.parametrize(("address", "joins"), [("", False), ("local", False), ("auto", True), ("10.0.0.1:6379", True)])
def test_ray_address_names_a_cluster(address: str, joins: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert joins_cluster() == joins
    monkeypatch.delenv("RAY_ADDRESS")
    assert not joins_cluster()


REFUSED = {
    "http://127.0.0.1:8265": "which is for `ray job submit`; unset it to run here",
    "ray://127.0.0.1:10001": "which is for Ray Client; unset it to run here",
    "junk": "Invalid address format: junk; unset it",
    "127.0.0.1:junk": "invalid literal for int",
    "127.0.0.1:1": "Connection refused; unset it",
    " ": "unset it",
    ":6379": "Invalid address format: :6379; unset it",
}


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_where_no_cluster_is_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    refusal_of(address, REFUSED[address], monkeypatch)
    assert capfd.readouterr() == ("", "")  # Ray has logged no traceback


def test_the_address_that_was_found_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saltray.distributed.ray_internals.head_address", lambda: "127.0.0.1:1")
    refusal_of("auto", "127.0.0.1:1: [Errno 111] Connection refused; unset it", monkeypatch)


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
    monkeypatch.setattr(module, "ANSWER_S", 0.2 if answer is None else 60.0)
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
