"""Where processes listen, from /proc alone."""

import socket
from collections.abc import Iterable
from pathlib import Path

LISTEN = "0A"


def listening(pids: Iterable[int]) -> dict[tuple[str, int], int]:
    """Address and port of each TCP socket that takes connections, with the process that holds it."""
    addresses = {}
    for version in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{version}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN:
                addresses[fields[9]] = _address(fields[1])
    found = {}
    for pid in pids:
        for inode in _sockets(pid) & addresses.keys():
            found[addresses[inode]] = pid
    return found


def _sockets(pid: int) -> set[str]:
    """Inodes of the sockets that a process has open."""
    found = set()
    try:
        for path in Path(f"/proc/{pid}/fd").iterdir():
            target = str(path.readlink())
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:  # it has ended, or closed one
        pass
    return found


def _address(text: str) -> tuple[str, int]:
    """`0100007F:1F90` is 127.0.0.1 and 8080: words of four bytes in the order of this machine."""
    host, port = text.split(":")
    words = [bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, b"".join(words)), int(port, 16)
