"""Why one of Ray's processes died: by which signal, and where in the code.

Ray's own message names several possible causes and cannot tell which it was. But a worker of Ray's that dies of a
signal writes that and its C++ and Python frames to its log (Ray sets absl's and Python's fault handlers), unless the
signal is SIGKILL, which no process can catch.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayError

from saltray.distributed.nodes import ask_node, live_nodes
from saltray.distributed.ray_internals import logs_folder

READ_S = 10.0
"""Longest wait for the log of a process on another node."""
LOG_BYTES = 1 << 20
"""What is read of a log, from its end."""
FRAMES = 4
OUT_OF_MEMORY = (
    "was killed, most likely because memory was short; lower train.batch_size, raise cluster.cpus_per_worker so that "
    "fewer jobs run at once, or use a machine with more memory"
)
_RANK = re.compile(r"^\[Rank (\d+)[^\]\n]*\]:$", re.MULTILINE)
_PID = re.compile(r"^\tpid: (\d+)$", re.MULTILINE)
_NODE = re.compile(r"^\tip: (\S+)$", re.MULTILINE)
_SIGNAL = re.compile(r"^\*\*\* (SIG[A-Z]+) received", re.MULTILINE)
_NATIVE = re.compile(r"^PC: @ +0x[0-9a-f]+ +\S+ +(\S+?)\(", re.MULTILINE)
_FATAL = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
_FRAME = re.compile(r'^  File "(?:.*/(?:site-packages/|(?=saltray/)))?(.+)", line (\d+) in (\S+)$', re.MULTILINE)
_EXTENSIONS = "\nExtension modules: "
_LOW_MEMORY = re.compile("low on memory|memory pressure|OutOfMemory")
_SILENT = "connection error code 2"
"""Of Ray's message of a process whose connection ended without a word."""


@dataclass(frozen=True)
class ProcessDeath:
    """How a process of Ray's died."""

    reason: str
    """In words that follow the name of the process: "on 10.0.0.2 died of SIGSEGV in ..."."""
    log: str = ""
    """What the process wrote of its fault, as it died."""


def process_death(text: str) -> ProcessDeath | None:
    """How the process that an error is about has died; None where it did not, or where Ray knows the cause itself.

    Args:
        text: the error's, as Ray raises it, with the process's number and node.
    """
    pid, node = _PID.search(text), _NODE.search(text)
    if pid is None or node is None:
        return None
    if _LOW_MEMORY.search(text):
        return ProcessDeath(f"on {node[1]} {OUT_OF_MEMORY}")
    if _SILENT not in text:
        return None
    log = _log_of(int(pid[1]), node[1])
    if log is None:
        return ProcessDeath(f"on {node[1]} died, and its log there cannot be read")
    fault = fault_in(log)
    if fault is None:
        return ProcessDeath(f"on {node[1]} {OUT_OF_MEMORY}")
    return ProcessDeath(f"on {node[1]} died of {fault.reason}", fault.log)


def rank_deaths(text: str) -> dict[str, ProcessDeath]:
    """The ranks that died ("rank 1"), by the text of the error by which Ray Train gives a job up.

    The exceptions within that error do not survive the way from Ray Train's controller in every case; the text does.
    Where a rank died before all had started, it does not say which ("a rank").
    """
    before, *parts = _RANK.split(text)
    named = [(f"rank {rank}", part) for rank, part in zip(parts[::2], parts[1::2], strict=True)]
    deaths = {name: process_death(part) for name, part in named or [("a rank", before)]}
    return {name: death for name, death in deaths.items() if death is not None}


def fault_in(log: str) -> ProcessDeath | None:
    """The fault that ended the process of a worker's log; None if it wrote of none."""
    signal, fatal = _SIGNAL.search(log), _FATAL.search(log)
    found = [match for match in (signal, fatal) if match is not None]
    if not found:
        return None
    native = _NATIVE.search(log)
    frames = [f"{path}:{line} {function}" for path, line, function in _FRAME.findall(log)[:FRAMES]]
    where = f" in {native[1]}" if native else ""
    called = f" ({', '.join(frames)})" if frames else ""
    text = log[min(match.start() for match in found) :].partition(_EXTENSIONS)[0]
    return ProcessDeath(f"{found[0][1]}{where}{called}", text.strip())


def _log_of(pid: int, node: str) -> str | None:
    """The end of a worker's log, read on its node; None if that is not possible."""
    if node == ray.util.get_node_ip_address():  # type: ignore[no-untyped-call]
        return _read_log(pid)
    try:
        alive = next((each for each in live_nodes() if each["NodeManagerAddress"] == node), None)
        if alive is None:
            return None
        asked = ask_node(alive, _read_log, pid)
        answered, _ = ray.wait([asked], timeout=READ_S)
        if not answered:
            ray.cancel(asked, force=True)
            return None
        log: str | None = ray.get(asked)
    except RayError:  # the node is gone too
        return None
    return log


def _read_log(pid: int) -> str | None:
    """The end of the log of a worker of this node."""
    try:
        logs = sorted(Path(logs_folder()).glob(f"worker-*-{pid}.err"), key=lambda path: path.stat().st_mtime)
        return logs[-1].read_bytes()[-LOG_BYTES:].decode(errors="replace") if logs else None
    except OSError:  # Ray's folder was deleted, for instance
        return None
