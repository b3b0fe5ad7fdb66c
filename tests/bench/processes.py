"""What a process and all that it has started use, from Linux's /proc: CPU time and memory, by kind of process."""

import os
import re
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Self

TICK = os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """`root` and its descendants that live."""
    children: dict[int, list[int]] = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        if (fields := stat(int(path.parent.name))) is not None:
            children[int(fields[1])].append(int(path.parent.name))
    found = [root]
    for pid in found:
        found += children[pid]
    return found


def stat(pid: int) -> list[str] | None:
    """Fields of its `stat` from the state on; None once it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def kind_of(pid: int) -> str:
    """Ray's name for it, or that of its program; empty once it has ended."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
    if match := re.match(r"ray::(\w+)|\S*/(gcs_server|raylet) ", title):
        return match[1] or match[2]
    if "fork_server" in title:
        return "fork server" if " serve " in title else "asking process"
    if match := re.search(r"(default_worker|dashboard/agent|runtime_env/agent/main|log_monitor|monitor)\.py", title):
        return match[1]
    return "driver" if "python" in title else title.partition(" ")[0]


def started_at(pid: int) -> float | None:
    """When it started, in seconds since 1970; None once it has ended."""
    fields = stat(pid)
    if fields is None:
        return None
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot + int(fields[19]) / TICK


def cpu_seconds(root: int) -> dict[str, float]:
    """CPU seconds so far by kind of process, with those of children that have ended."""
    spent: dict[str, float] = defaultdict(float)
    for pid in tree(root):
        if (fields := stat(pid)) is not None:
            spent[kind_of(pid)] += sum(map(int, fields[11:15])) / TICK
    return dict(spent)


def memory(root: int) -> dict[str, float]:
    """Bytes by kind of process; what processes share is divided among them (PSS)."""
    used: dict[str, float] = defaultdict(float)
    for pid in tree(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        if match := re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE):
            used[kind_of(pid)] += int(match[1]) * 1024
    return dict(used)


class Watch:
    """Context manager: looks at a process and its descendants repeatedly.

    Args:
        root: the process.
        every: seconds between two looks.
        memory: whether to measure memory, which costs some milliseconds a process and look.
    """

    def __init__(self, root: int, *, every: float = 0.5, memory: bool = False) -> None:
        self.root = root
        self.every = every
        self.with_memory = memory
        self.peak: dict[str, float] = {}
        """Bytes by kind of process, at the moment at which the sum was greatest."""
        self._cpu: dict[tuple[int, str], tuple[str, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def cpu(self) -> dict[str, float]:
        """CPU seconds by kind of process, of all that were seen."""
        spent: dict[str, float] = defaultdict(float)
        for kind, seconds in self._cpu.values():
            spent[kind] += seconds
        return dict(spent)

    def _look(self) -> None:
        while not self._stop.wait(self.every):
            for pid in tree(self.root):
                fields, kind = stat(pid), kind_of(pid)
                if fields is not None and kind:
                    self._cpu[pid, fields[19]] = kind, sum(map(int, fields[11:13])) / TICK
            if self.with_memory and sum((now := memory(self.root)).values()) > sum(self.peak.values()):
                self.peak = now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
