"""One command under disturbance: its processes by kind, a disk that fills, and whether it ended in order."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

from command import Live
from faults.s3_proxy import OUTAGE, SeededProxy

LIMIT_S = 400.0
"""No attempt may take longer, on a busy machine either: it hangs."""
ATTEMPTS_MORE = 3
"""Attempts beyond one for each step."""
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT, "SIGHUP": signal.SIGHUP}
PROCESSES = {
    "rank": r"^ray::(RayTrainWorker|_RayTrainWorker)",
    "controller": r"^ray::TrainController",
    "raylet": r"^\S*/raylet ",
    "gcs": r"^\S*/gcs_server ",
    "fork server": r"fork_server(\.py)? serve ",
    "actor": r"^ray::\w*MapWorker",
}
"""The processes of a command but for the driver, by title."""
ORDERLY = {1: "some failed", 2: "the user can fix it", 129: "SIGHUP", 130: "SIGINT", 143: "SIGTERM"}
"""Exit codes of a command that ended with a line."""
# They hold no worker and no GPU, and look for a minute or more for the server that was killed before they end too.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


@dataclass
class Step:
    """One fault, and when it comes.

    Args:
        kind: what happens, such as `SIGKILL rank`.
        after: a condition of the attempt, tried ten times a second.
        inject: does it; False where there is nothing to do it to, so that it is retried.
    """

    kind: str
    after: Callable[["Attempt"], bool]
    inject: Callable[["Attempt"], bool]
    done: bool = False


@dataclass
class Attempt:
    """One run of the command, to its end."""

    args: tuple[str, ...]
    work: Path
    began: float = field(default_factory=monotonic)
    injected: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What of this attempt was not in order."""
    code: int = 0
    lines: list[str] = field(default_factory=list)
    """Its standard output, so far."""
    errors: str = ""
    """Its standard error."""
    last_line: str = ""
    seconds: float = 0.0
    _step_at: float = 0.0
    _lines_at: int = 0

    def run(self, steps: list[Step]) -> None:
        """Start the command, let the steps happen in turn, and wait for its end."""
        self.live = Live(*self.args, home=self.work)
        self.lines = self.live.seen
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(self.live.process.stderr or ()), daemon=True)
        reader.start()
        waiting = list(steps)
        while self.live.process.poll() is None:
            if waiting and waiting[0].after(self) and waiting[0].inject(self):
                step = waiting.pop(0)
                step.done = True
                self.injected.append(step.kind)
                self._step_at = monotonic()
                self._lines_at = len(self.lines)
            if monotonic() - self.began > LIMIT_S:
                self.faults.append(f"hangs: {stack(self.live.process.pid)}")
                self.live.end()
                break
            sleep(0.1 if waiting else 0.3)
        self.code = self.live.process.wait()
        self.seconds = monotonic() - self.began
        reader.join(timeout=10)
        self.errors = "".join(errors)

    def since_step(self) -> float:
        """Seconds since the last step, or the start."""
        return monotonic() - max(self._step_at, self.began)

    def epochs_since_step(self) -> int:
        """Lines of epochs since the last step, or the start."""
        return sum("  epoch " in line for line in self.lines[self._lines_at :])

    def pids(self, kind: str) -> list[int]:
        """Ids of the processes of one kind, in order."""
        if kind == "driver":
            return [self.live.process.pid]
        return sorted(process.pid for process in self.live.family() if re.search(PROCESSES[kind], process.title()))

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds; False where the command ended, or hung, before."""
        while self.live.process.poll() is None and monotonic() - self.began < LIMIT_S:
            if condition():
                return True
            sleep(0.001)
        return False

    def judge(self) -> None:
        """Whether it ended as it may after what was injected."""
        lines = [line for line in self.errors.splitlines() if line.strip()]
        self.last_line = lines[-1] if lines else ""
        if self.faults or self.code == 0 or (self.code == -signal.SIGKILL and "SIGKILL driver" in self.injected):
            return
        if "Traceback" in "".join(self.lines) + self.errors:
            self.faults.append(f"traceback: {' / '.join(lines)[-1500:]}")
        elif self.code not in ORDERLY or not self.last_line.startswith("saltray: "):
            self.faults.append(f"ended with {self.code} and {' / '.join(lines)[-500:]!r}")
        elif not self.injected:
            self.faults.append(f"ended undisturbed: {self.last_line}")

    def left(self) -> set[str]:
        """What still runs of it."""
        return self.live.left(
            *(AGENTS if self.code == -signal.SIGKILL or {"SIGKILL raylet"} & {*self.injected} else ())
        )


def attempts(
    args: tuple[str, ...], work: Path, steps: list[Step], proxy: SeededProxy | None = None
) -> Iterator[Attempt]:
    """Run a command repeatedly, with the steps that are still to come, until it is complete."""
    for _ in range(len(steps) + ATTEMPTS_MORE):
        attempt = Attempt(args, work)
        before = proxy.injected.copy() if proxy is not None else Counter()
        attempt.run([step for step in steps if not step.done])
        if proxy is not None:
            drawn = proxy.injected - before
            attempt.injected += [f"S3 {kind}" for kind in drawn.elements() if kind != OUTAGE]
        attempt.judge()
        yield attempt
        if attempt.code == 0:
            return


def stack(pid: int) -> str:
    """Where a process is, if py-spy can tell."""
    tool = Path(sys.executable).with_name("py-spy")
    try:
        done = subprocess.run(
            [tool, "dump", "--pid", str(pid)], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no stack: {error}"
    return done.stdout or done.stderr


def send(kind: str, name: str, choose: Callable[[list[int]], int]) -> Callable[[Attempt], bool]:
    """Send a signal to one process of a kind."""

    def inject(attempt: Attempt) -> bool:
        if not (pids := attempt.pids(kind)):
            return False
        try:
            os.kill(choose(pids), SIGNALS[name])
        except ProcessLookupError:
            return False
        return True

    return inject


class Disk:
    """A small file system at a folder, which can be filled; only root can mount one."""

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "faults", path], check=True)

    @property
    def filler(self) -> Path:
        return self.path / "filler.bin"

    def fill(self, attempt: Attempt, seconds: float | None) -> bool:
        """Write until nothing is left; there is room again after so many seconds, or when the attempt has ended."""
        with self.filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        threading.Thread(target=self._free_later, args=(attempt, seconds), daemon=True).start()
        return True

    def _free_later(self, attempt: Attempt, seconds: float | None) -> None:
        end = monotonic() + (seconds if seconds is not None else 2 * LIMIT_S)
        while attempt.live.process.poll() is None and monotonic() < end:
            sleep(0.1)
        self.filler.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep what is on it in its place, and unmount it."""
        kept = self.path.with_name(self.path.name + "-kept")
        self.filler.unlink(missing_ok=True)
        shutil.copytree(self.path, kept, ignore=shutil.ignore_patterns("ray", "socket", "*.sock"), symlinks=True)
        subprocess.run(["umount", "--lazy", self.path], check=True)
        self.path.rmdir()
        kept.rename(self.path)
