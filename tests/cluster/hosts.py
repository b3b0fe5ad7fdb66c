"""Hosts on one machine: network namespaces on a bridge, each with its own address, processes, /tmp/ray and sshd.

A PID namespace each, since `ray up` begins with `ray stop`, which ends every Ray process that it can see; /tmp/ray and
/dev/shm each, since Ray's daemons of one machine meet there. The file system is shared otherwise, so that all hosts
have the same Python.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Self

NEEDED = {"ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync"}
"""Programs, and the Debian packages that bring them."""
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


def missing() -> str | None:
    """What is missing on this machine for such hosts, with the remedy, or None."""
    if os.geteuid() != 0:
        return "hosts of network namespaces need root; run the tests as root"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    packages = [package for program, package in NEEDED.items() if shutil.which(program, path=path) is None]
    if packages:
        return f"no {', '.join(packages)}; apt-get install --no-install-recommends {' '.join(NEEDED.values())}"
    bridge = ["unshare", "--net", "--pid", "--fork", "ip", "link", "add", "salt", "type", "bridge"]
    tried = subprocess.run(bridge, capture_output=True, text=True, check=False)
    return f"no network namespaces here: {tried.stderr.strip()}; allow them" if tried.returncode else None


class Host:
    """One of the hosts.

    Args:
        name: its host name, and that of its network namespace.
        address: its IPv4 address.
        home: home folder of root on it, with the environment of login shells in .bash_profile.
    """

    def __init__(self, name: str, address: str, home: Path) -> None:
        self.name = name
        self.address = address
        self.home = home
        self._process: subprocess.Popen[bytes] | None = None

    def boot(self, folder: Path, environment: Mapping[str, str], names: str) -> None:
        """Start the host, with an sshd; returns once that answers.

        Args:
            folder: with the keys.
            environment: of every login shell.
            names: its /etc/hosts.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        exports = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment}
        profile = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in exports.items())
        (self.home / ".bash_profile").write_text(profile)
        (self.home / "tmp-ray").mkdir(exist_ok=True)
        entries = (entry.split(":") for entry in Path("/etc/passwd").read_text().splitlines())
        homes = "".join(":".join([*e[:5], str(self.home) if e[0] == "root" else e[5], *e[6:]]) + "\n" for e in entries)
        (self.home / "passwd").write_text(homes)  # ssh takes the home folder from there, whatever HOME says
        (self.home / "hosts").write_text(names)
        (self.home / "resolv.conf").write_text("")
        options = {
            "HostKey": folder / "hostkey",
            "AuthorizedKeysFile": folder / "key.pub",
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
            "ListenAddress": self.address,
            "PidFile": "none",
            "MaxStartups": "100",
        }
        sshd = shlex.join([SSHD, "-D", "-f", "/dev/null", *(f"-o{key}={value}" for key, value in options.items())])
        files = " && ".join(f"mount --bind {name} /etc/{name}" for name in ("passwd", "hosts", "resolv.conf"))
        mounts = f"mount --bind tmp-ray /tmp/ray && {files} && mount -t tmpfs tmpfs /dev/shm"
        script = f"hostname {self.name} && mkdir -p /tmp/ray && {mounts} && exec {sshd}"
        unshare = ["unshare", "--pid", "--fork", "--uts", "--mount", "--mount-proc", "--kill-child", "bash", "-c"]
        with (self.home / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *unshare, script],
                cwd=self.home,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = monotonic() + 20
        while subprocess.run([*self.ssh(folder), "true"], capture_output=True, check=False).returncode != 0:
            if monotonic() > end or self._process.poll() is not None:
                raise RuntimeError(f"{self.name} does not come up: {(self.home / 'sshd.log').read_text()}")
            sleep(0.1)

    def ssh(self, folder: Path) -> list[str]:
        """The command that runs what follows it on this host."""
        options = {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null", "LogLevel": "ERROR"}
        flags = [f"-o{key}={value}" for key, value in options.items()]
        return ["ssh", "-i", str(folder / "key"), "-oConnectTimeout=5", *flags, f"root@{self.address}"]

    def kill(self) -> None:
        """SIGKILL to every process of the host at once, as when a machine is lost."""
        if self._process is not None:
            self._process.kill()  # unshare takes the first process of the namespace along, and that all others
            self._process.wait()
            self._process = None

    def processes(self) -> dict[int, str]:
        """Command lines by process id, as this machine numbers them."""
        found = {}
        mine = Path("/run/netns", self.name).stat().st_ino
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if (path / "ns/net").stat().st_ino == mine:
                    found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:  # it has ended
                continue
        return found


class Hosts:
    """Context manager: a head and workers on a bridge of their own.

    Args:
        folder: for keys, homes and logs.
        count: how many.

    Attributes:
        gateway: this machine's address on the bridge.
        key: the private key that logs in as root on all of them.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self._tag = f"salt{os.getpid() % 100_000}"
        routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
        net = next(f"10.77.{number}" for number in range(256) if f"10.77.{number}." not in routes)
        self.gateway = f"{net}.1"
        self.key = folder / "key"
        self._hosts = [
            Host(f"{self._tag}-{number}", f"{net}.{10 + number}", folder / f"host{number}") for number in range(count)
        ]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def __getitem__(self, number: int) -> Host:
        return self._hosts[number]

    def __enter__(self) -> Self:
        Path("/run/sshd").mkdir(exist_ok=True)
        for name in ("key", "hostkey"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name))
        try:
            run("ip", "link", "add", self._tag, "type", "bridge")
            run("ip", "addr", "add", f"{self.gateway}/24", "dev", self._tag)
            run("ip", "link", "set", self._tag, "up")
            for number, host in enumerate(self._hosts):
                self._connect(number, host)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def boot(self, host: Host, environment: Mapping[str, str]) -> None:
        """Start a host with `environment` in every login shell."""
        # Each process of Ray that asks for its host's name would wait 10 s for a name server that no host reaches.
        names = "".join(f"{each.address} {each.name}\n" for each in self._hosts)
        host.boot(self.folder, environment, f"127.0.0.1 localhost\n{names}")

    def start(self, host: Host, *command: str) -> subprocess.Popen[bytes]:
        """Start a program on a host, with its standard input open."""
        return subprocess.Popen([*host.ssh(self.folder), shlex.join(command)], stdin=subprocess.PIPE)

    def left(self) -> list[str]:
        """Command lines of what runs on the hosts, their own processes apart.

        Ray's log monitor is left out: `ray down` does not end it, but AWS terminates its machine.
        """
        running = (command for host in self for command in host.processes().values())
        own = ("unshare ", "sshd")
        return [command for command in running if not command.startswith(own) and "log_monitor.py" not in command]

    def _connect(self, number: int, host: Host) -> None:
        """Give a host its network."""
        cable = f"{self._tag}v{number}"
        run("ip", "netns", "add", host.name)
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        run("ip", "link", "set", cable, "master", self._tag, "up")
        inside = ("ip", "-n", host.name)
        run(*inside, "addr", "add", f"{host.address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "route", "add", "default", "via", self.gateway)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, host in enumerate(self._hosts):
            host.kill()
            for command in (f"ip link del {self._tag}v{number}", f"ip netns del {host.name}"):
                subprocess.run(command.split(), capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._tag], capture_output=True, check=False)


def run(*command: str) -> str:
    """Run a program; what it printed.

    Raises:
        RuntimeError: it failed, and what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout


def wait_until(holds: Callable[[], bool], seconds: float, what: Callable[[], object]) -> None:
    """Return once `holds`; fail with `what` where that takes too long."""
    limit = monotonic() + seconds
    while not holds():
        assert monotonic() < limit, what()
        sleep(0.5)


def end(process: subprocess.Popen[str], seconds: float = 20) -> None:
    """End a process and its session by SIGTERM, or SIGKILL where that takes too long."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue
