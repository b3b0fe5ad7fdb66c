"""A real S3 server for tests: Ceph's RADOS gateway on this machine, which checks signatures, checksums and clocks."""

import http.client
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Self

from command import s3_environment

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "openssl", "radosgw", "radosgw-admin", "setpriv")
INSTALL = "apt-get install --no-install-recommends ceph-mon ceph-osd openssl radosgw"
START_S = 60
CONFIG = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon_port}
public addr = 127.0.0.1
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
admin socket =
run dir = {folder}
crash dir = {folder}
log file = {folder}/$name.log
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
# One disk, in memory, and no delay for a quorum.
osd objectstore = memstore
memstore device bytes = 4294967296
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
paxos propose interval = 0.05
# The monitor must not stop where the disk of this machine is nearly full.
mon data avail warn = 1
mon data avail crit = 1
[client.rgw]
rgw frontends = beast endpoint={address}:{port} ssl_endpoint=127.0.0.1:{tls_port} ssl_certificate={folder}/tls.pem
rgw thread pool size = 32
"""


class StartError(RuntimeError):
    """The server did not start; with the output of its programs."""


def missing() -> str | None:
    """What is missing on this machine, with the remedy, or None."""
    programs = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"no {', '.join(programs)} on this machine; {INSTALL}" if programs else None


class Ceph:
    """Context manager: a cluster of one monitor, one disk in memory and one gateway.

    Args:
        folder: an empty folder, for all that it writes.
        address: address of this machine that the gateway listens on.

    Attributes:
        endpoint, tls_endpoint: URLs of its S3.
        certificate: file with the certificate of the second one.
        access_key, secret_key: credentials of its one user.
        environment: AWS_* variables for it.
    """

    def __init__(self, folder: Path, *, address: str = "127.0.0.1") -> None:
        self._folder = folder
        self._address = address
        self._config = folder / "ceph.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._port, self._tls_port, self._mon_port = free_ports(3)
        self.endpoint = f"http://{address}:{self._port}"
        self.tls_endpoint = f"https://127.0.0.1:{self._tls_port}"
        self.certificate = folder / "tls.pem"
        self.access_key = f"test-access-{uuid.uuid4().hex}"
        self.secret_key = f"test-secret-{uuid.uuid4().hex}"
        self.environment = s3_environment(self.endpoint, self.access_key, self.secret_key)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def kill_gateway(self) -> None:
        """SIGKILL: requests in flight are cut off, and later ones are refused."""
        self._daemons["radosgw"].kill()
        self._daemons["radosgw"].wait()

    def start_gateway(self) -> None:
        """Start it unless it runs, on the same port and with its data, and wait until it answers."""
        self._start_until(self._answers, "radosgw", "-n", "client.rgw")

    def _start(self) -> None:
        fsid, disk = str(uuid.uuid4()), str(uuid.uuid4())
        config = CONFIG.format(
            fsid=fsid,
            mon_port=self._mon_port,
            address=self._address,
            port=self._port,
            tls_port=self._tls_port,
            folder=self._folder,
        )
        self._config.write_text(config)
        for name in ("mon", "osd", "rgw"):
            (self._folder / name).mkdir()
        self._make_certificate()
        monmap, address = str(self._folder / "monmap"), f"[v1:127.0.0.1:{self._mon_port}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
        self._spawn("ceph-mon", "-i", "a")
        self._ask("osd", "new", disk, "0")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._start_until(lambda: "1 up" in self._ask("osd", "stat"), "ceph-osd", "-i", "0")
        self.start_gateway()
        user = ("--uid=test", "--display-name=test", f"--access-key={self.access_key}", f"--secret={self.secret_key}")
        self._run("radosgw-admin", "-n", "client.rgw", "user", "create", *user)

    def _end(self) -> None:
        for daemon in reversed(self._daemons.values()):
            daemon.kill()
            daemon.wait()

    def _make_certificate(self) -> None:
        both = str(self.certificate)
        names = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", both, "-out", both, *names)

    def _run(self, program: str, *args: str) -> str:
        return run(program, "-c", str(self._config), *args)

    def _ask(self, *args: str) -> str:
        """Answer of the monitor, which refuses requests until it knows its map."""
        end = monotonic() + START_S
        while True:
            try:
                return self._run("ceph", *args)
            except StartError:
                if monotonic() > end:
                    raise

    def _spawn(self, program: str, *args: str) -> None:
        # It ends with this process, even if that is killed and no fixture cleans up.
        command = ["setpriv", "--pdeathsig=KILL", program, "-f", "-c", str(self._config), *args]
        with (self._folder / f"{program}.out").open("ab") as out:
            self._daemons[program] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def _start_until(self, is_up: Callable[[], bool], program: str, *args: str) -> None:
        """Start a daemon that does not run, and again whenever it ends, as a disk does that the monitor refuses."""
        end = monotonic() + START_S
        while True:
            if program not in self._daemons or self._daemons[program].poll() is not None:
                self._spawn(program, *args)
            if is_up():
                return
            if monotonic() > end:
                said = (self._folder / f"{program}.out").read_text()
                raise StartError(f"{program} is not up after {START_S} s:\n{said}")
            sleep(0.1)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self._address, self._port, timeout=5)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except OSError:
            return False
        finally:
            connection.close()
        return True


def run(*command: str) -> str:
    """Output of a program."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    if done.returncode:
        raise StartError(f"{command} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def free_ports(count: int) -> list[int]:
    """Unused ports of this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
