"""`saltray serve`: an ensemble as a web service."""

import os
import socket
import time
from functools import partial
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from saltray.commands.predict import check_members
from saltray.distributed.address import joins_cluster
from saltray.distributed.cluster import is_connected, ray_cluster
from saltray.distributed.paths import check_seen
from saltray.distributed.preflight import check_gpus
from saltray.ensemble.layout import MANIFEST
from saltray.ensemble.versions import read_manifest, resolve
from saltray.errors import ConfigError, EnsembleError, IntegrityError, NotFoundError, SaltrayError
from saltray.progress import (
    Event,
    Observer,
    ServingKept,
    ServingPlanned,
    ServingStarted,
    ServingUpdated,
    ServingWaiting,
    log_event,
)
from saltray.storage.uri import open_store

if TYPE_CHECKING:
    from saltray.distributed.serving import Service

TOKEN = "SALTRAY_SERVE_TOKEN"
"""Name of the environment variable."""
MIN_TOKEN = 16
"""Characters of a token, at least."""
WAIT_S = 60.0
"""Seconds between the warnings that the models are not loaded yet."""
LOOK_S = 10.0
"""Seconds between looks for a newer version."""
PACKAGES = ("fastapi", "uvicorn", "python_multipart")


def serve(
    *,
    ensemble: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    route: str = "/",
    replicas: int = 1,
    max_replicas: int | None = None,
    queue: int = 128,
    token_file: str | os.PathLike[str] | None = None,
    tta: bool = True,
    observer: Observer = log_event,
) -> NoReturn:
    """Answer `POST /predict` with the masks of tiles, until Ctrl-C.

    Where `ensemble` names no version, the newest is served. One that is published later is loaded beside it, and takes
    its place without a failed request; if it cannot be loaded, the old one is kept and the observer told.

    A token is the value of SALTRAY_SERVE_TOKEN, or the content of `token_file`; clients send it as
    `Authorization: Bearer TOKEN`.

    Args:
        ensemble: `<store>/ensembles/<name>[/latest|/v3]`.
        host: address to listen on. One that other machines reach needs a token.
        port: port to listen on.
        route: path before `/predict`, for several applications on one cluster.
        replicas: processes with the models: one GPU each where there are any.
        max_replicas: where requests wait, there are more replicas, up to so many; as many as `replicas` unless given.
        queue: requests that wait for the models at most. More are answered by 503.
        token_file: a file with the token.
        tta: average over each tile and its mirror image.
        observer: receives the events.

    Raises:
        ConfigError, EnsembleError, ResourceError, StorageError: see the message.
        KeyboardInterrupt: it was ended.
    """
    _check_settings(port=port, route=route, replicas=replicas, max_replicas=max_replicas, queue=queue)
    token = read_token(token_file)
    check_exposure(host, token)
    _check_installed()
    home = resolve(ensemble)
    manifest = read_manifest(home)
    check_gpus("set it to nothing to serve on CPUs")
    check_members(home.uri)
    if not (joins_cluster() or is_connected()):
        _check_free(host, port)
    with ray_cluster(observer=observer) as where:
        from saltray.distributed.replica_placement import place_replicas
        from saltray.distributed.serving import ServeOptions, serving
        from saltray.distributed.web import digest_of

        check_seen(home.uri, partial(home.get, MANIFEST))
        most = max_replicas or replicas
        place = place_replicas(most)
        options = ServeOptions(
            host=host,
            port=port,
            route=route,
            replicas=replicas,
            max_replicas=most,
            queue=queue,
            token_digest=None if token is None else digest_of(token),
            tta=tta,
            device=place.device,
            cpus=place.cpus,
        )
        name = f"{manifest.name} {manifest.version}"
        observer(ServingPlanned(ensemble=name, where=where, replicas=replicas, max_replicas=most, device=place.device))
        with serving(home.uri, manifest.name, options) as service:
            since = time.monotonic()
            while not service.wait(WAIT_S):
                observer(ServingWaiting((time.monotonic() - since) / 60))
            follower = Follower(service, ensemble, name)
            observer(
                ServingStarted(
                    ensemble=name,
                    url=service.url,
                    height=manifest.height,
                    width=manifest.width,
                    follows=follower.follows,
                )
            )
            while True:
                time.sleep(LOOK_S)
                if event := follower.look():
                    observer(event)


class Follower:
    """Looks for newer versions of the ensemble that is served.

    Attributes:
        follows: whether there can be any: the URI names no version.
    """

    def __init__(self, service: "Service", uri: str, name: str) -> None:
        self.service, self.uri, self.name = service, uri, name
        self.follows = open_store(uri.rstrip("/")).uri != service.uri
        self._refused = self._told = ""

    def look(self) -> Event | None:
        """Serve the newest version, if it is another one; what there is to tell."""
        if not self.follows:
            return None
        try:
            home = resolve(self.uri)
            if home.uri in (self.service.uri, self._refused):
                return None
            manifest = read_manifest(home)
            if fault := self.service.check(home.uri):
                if isinstance(fault, EnsembleError | IntegrityError | NotFoundError):  # and not the store's for now
                    self._refused = home.uri
                raise fault
            self.service.update(home.uri)
        except SaltrayError as error:
            told, self._told = self._told, str(error)
            return ServingKept(self.name, self._told) if told != self._told else None
        self.name, self._told = f"{manifest.name} {manifest.version}", ""
        return ServingUpdated(self.name)


def read_token(file: str | os.PathLike[str] | None) -> str | None:
    """The token of the environment or of a file; None without one.

    Raises:
        ConfigError: both are there, the file cannot be read, or what is there is no token.
    """
    given, where = os.environ.get(TOKEN), TOKEN
    if file is not None:
        if given is not None:
            raise ConfigError(f"both {TOKEN} and --token-file are set; keep one of them")
        where = f"--token-file {os.fspath(file)}"
        try:
            given = Path(file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(f"{where} cannot be read: {reason}; write a token to it") from error
    if given is None:
        return None
    token = given.strip()
    if len(token) < MIN_TOKEN or not all("!" <= letter <= "~" for letter in token):
        raise ConfigError(
            f"{where} has no usable token: {len(token)} characters, and it needs {MIN_TOKEN} or more, of ASCII and "
            "without blanks; `openssl rand -hex 32` makes one"
        )
    return token


def check_exposure(host: str, token: str | None) -> None:
    """Refuse to listen where other machines reach it, without a token.

    Raises:
        ConfigError: it would, or `host` is no address.
    """
    if not _is_loopback(host) and token is None:
        raise ConfigError(
            f"--host {host} is reached from other machines, and there is no token; set {TOKEN} or give --token-file, "
            "or leave --host out to listen on this machine alone"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        raise ConfigError(f"--host is {host!r}, which is no IP address; give one, such as 0.0.0.0 for all") from None


def _check_settings(*, port: int, route: str, replicas: int, max_replicas: int | None, queue: int) -> None:
    if not 1 <= port <= 65535:
        raise ConfigError(f"--port is {port}; give 1 to 65535")
    if not route.startswith("/") or (route != "/" and route.endswith("/")) or "{" in route:
        raise ConfigError(f"--route is {route!r}; give a path such as /salt")
    if replicas < 1:
        raise ConfigError(f"--replicas is {replicas}; give 1 or more")
    if max_replicas is not None and max_replicas < replicas:
        raise ConfigError(f"--max-replicas is {max_replicas}, less than --replicas, which is {replicas}; raise it")
    if queue < 1:
        raise ConfigError(f"--queue is {queue}; give 1 or more")


def _check_installed() -> None:
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ConfigError(f"serving needs {', '.join(missing)}; `pip install 'saltray[serve]'`")


def _check_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on: Serve would retry for ever."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error.strerror}; give another --port or --host"
        ) from error
