"""`saltray serve`: what it refuses, and the whole of it as a process of its own."""

import io
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from command import Live, Saltray, check_refusal
from listening import listening
from PIL import Image

from saltray.commands import serve as module
from saltray.commands.serve import Follower, check_exposure, read_token
from saltray.ensemble.load import Ensemble
from saltray.errors import ConfigError, EnsembleError, SaltrayError, StorageError
from saltray.progress import ServingKept, ServingUpdated

SECRET = "a-secret-of-some-length-0123456789"


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


# The token


def test_a_token_of_the_environment_or_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(module.TOKEN, raising=False)
    assert read_token(None) is None
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    assert read_token(file) == SECRET
    monkeypatch.setenv(module.TOKEN, SECRET)
    assert read_token(None) == SECRET
    with pytest.raises(ConfigError, match="both SALTRAY_SERVE_TOKEN and --token-file are set; keep one"):
        read_token(file)


@pytest.mark.parametrize("token", ["", "short", "with blanks in the middle of it", "café" * 10])
def test_what_is_no_token_is_refused_and_not_shown(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.TOKEN, token)
    with pytest.raises(ConfigError, match="SALTRAY_SERVE_TOKEN has no usable token.*openssl rand -hex 32") as caught:
        read_token(None)
    assert not token or token not in str(caught.value)


def test_a_token_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(module.TOKEN, raising=False)
    with pytest.raises(ConfigError, match="none cannot be read: No such file or directory; write a token to it"):
        read_token(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="binary cannot be read: it is no text"):
        read_token(tmp_path / "binary")


# Where it listens


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_alone_needs_no_token(host: str) -> None:
    check_exposure(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "8.8.8.8"])
def test_other_machines_need_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match=f"--host {host} is reached from other machines, and there is no token; set"):
        check_exposure(host, None)
    check_exposure(host, SECRET)


def test_a_host_is_an_address() -> None:
    for token in (None, SECRET):
        with pytest.raises(ConfigError, match="--host is 'here', which is no IP address"):
            check_exposure("here", token)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--port", "0"), "--port is 0; give 1 to 65535"),
        (("--route", "salt"), "--route is 'salt'; give a path such as /salt"),
        (("--route", "/salt/"), "--route is '/salt/'; give a path such as /salt"),
        (("--replicas", "0"), "--replicas is 0; give 1 or more"),
        (("--replicas", "3", "--max-replicas", "2"), "--max-replicas is 2, less than --replicas, which is 3; raise it"),
        (("--queue", "0"), "--queue is 0; give 1 or more"),
        (("--host", "0.0.0.0"), "there is no token"),
        ((), "no complete ensemble at "),
    ],
)
def test_a_wrong_flag_is_refused_at_once(
    saltray: Saltray, flags: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(module.TOKEN, raising=False)
    check_refusal(saltray("serve", "--ensemble", "store/ensembles/r1", *flags), message)


def test_a_port_that_is_taken(saltray: Saltray, untrained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_connected", lambda: False)  # a Ray of other tests
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = saltray("serve", "--ensemble", untrained, "--port", port)
    check_refusal(answer, f"cannot listen on 127.0.0.1, port {port}: Address already in use; give another --port")


def test_packages_that_are_missing(saltray: Saltray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("fastapi", "no_such_package"))
    answer = saltray("serve", "--ensemble", "store/ensembles/r1")
    check_refusal(answer, "serving needs no_such_package; `pip install 'saltray[serve]'`")


# New versions


class Replicas:
    """Takes the place of a service: what it finds wrong with a version, and what it was told to serve."""

    def __init__(self, uri: str, fault: SaltrayError | None = None) -> None:
        self.uri, self.fault, self.checked = uri, fault, 0

    def check(self, uri: str) -> SaltrayError | None:
        self.checked += 1
        return self.fault

    def update(self, uri: str) -> None:
        self.uri = uri


@pytest.fixture
def two_versions(untrained: str, tmp_path: Path) -> Path:
    home = tmp_path / "ensembles" / "r1"
    for version in ("v1", "v2"):
        shutil.copytree(untrained, home / version)
        manifest = (home / version / "manifest.json").read_text()
        (home / version / "manifest.json").write_text(manifest.replace('"version": "v1"', f'"version": "{version}"'))
    return home


def follower(home: Path, asked: str, replicas: Any) -> Follower:
    return Follower(replicas, f"{home}{asked}", "r1 v1")


@pytest.mark.parametrize("asked", ["", "/", "/latest"])
def test_the_newest_version_is_followed(two_versions: Path, asked: str) -> None:
    replicas = Replicas(f"{two_versions}/v1")
    looking = follower(two_versions, asked, replicas)
    assert looking.follows
    assert looking.look() == ServingUpdated("r1 v2")
    assert replicas.uri == f"{two_versions}/v2"
    assert looking.look() is None


def test_a_version_that_was_named_stays(two_versions: Path) -> None:
    looking = follower(two_versions, "/v1", Replicas(f"{two_versions}/v1"))
    assert not looking.follows
    assert looking.look() is None


def test_a_version_that_is_damaged_is_told_once_and_not_loaded_again(two_versions: Path) -> None:
    replicas = Replicas(f"{two_versions}/v1", EnsembleError("it is damaged"))
    looking = follower(two_versions, "", replicas)
    assert looking.look() == ServingKept("r1 v1", "it is damaged")
    assert looking.look() is None
    assert (replicas.checked, replicas.uri) == (1, f"{two_versions}/v1")


def test_a_store_that_fails_is_told_once_and_asked_again(two_versions: Path) -> None:
    replicas = Replicas(f"{two_versions}/v1", StorageError("S3 cannot be reached"))
    looking = follower(two_versions, "", replicas)
    assert looking.look() == ServingKept("r1 v1", "S3 cannot be reached")
    assert looking.look() is None
    replicas.fault = None
    assert looking.look() == ServingUpdated("r1 v2")


def test_an_ensemble_that_vanishes_is_told_once(two_versions: Path) -> None:
    looking = follower(two_versions, "", Replicas(f"{two_versions}/v1"))
    shutil.rmtree(two_versions)
    event = looking.look()
    assert isinstance(event, ServingKept)
    assert "no complete ensemble at" in event.reason
    assert looking.look() is None


# All of it


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for Ray's files, of a name that is short enough."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.ray
def test_it_answers_here_alone_with_its_token_until_it_is_interrupted(
    start: Callable[..., Live],
    untrained: str,
    free_port: int,
    tmp_path: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(module.TOKEN, SECRET)
    live = start("serve", "--ensemble", untrained, "--port", free_port)
    line = live.wait_for("serving r1 v1, tiles of 101x101, at ")
    assert "newer" not in line  # the URI names the version
    url = f"http://127.0.0.1:{free_port}"
    assert url in line

    tile = np.random.default_rng(0).integers(0, 256, (101, 101), np.uint8)
    file = io.BytesIO()
    Image.fromarray(tile).save(file, format="PNG")
    with httpx.Client(base_url=url, timeout=60) as client:
        assert client.post("/predict", content=file.getvalue()).status_code == 401
        headers = {"Authorization": f"Bearer {SECRET}"}
        answer = client.post("/predict", content=file.getvalue(), headers=headers)
        assert answer.status_code == 200
        mask = np.asarray(Image.open(io.BytesIO(answer.content))) > 0
        np.testing.assert_array_equal(mask, Ensemble.load(untrained, device="cpu").predict_masks(tile[None])[0])
        try:  # more than a body may have, of a length that is not told: it is not waited for to its end
            status = client.post("/predict", content=iter(lambda: bytes(2**16), b""), headers=headers).status_code
        except httpx.TransportError:  # the connection was closed before all was sent
            status = 413
        assert status == 413
        assert client.get("/health").status_code == 200

    titles = {process.pid: process.title() for process in live.family()}
    hosts = {host for host, _ in listening(titles)}
    assert free_port in {port for _, port in listening(titles)}
    assert not [host for host in hosts if not is_loopback(host)]

    assert live.interrupt(signal.SIGINT) == "saltray: interrupted"
    assert not live.left()
    files = [path for place in (tmp_path, temporary) for path in place.rglob("*") if path.is_file()]
    assert any("serve" in path.name for path in files)  # Serve's logs
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in "".join([*live.seen, *titles.values()])


def is_loopback(host: str) -> bool:
    address = ip_address(host)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
