"""What each script prints for `peers.py`: a line of JSON after each epoch. Standard library only."""

import json
import os
import resource
import time


class Epochs:
    """Prints a line for each epoch of a rank.

    Args:
        images: that this rank trains on in an epoch.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self.rank = int(os.environ.get("RANK", "0"))
        self.begin()

    def begin(self) -> None:
        """The training part of an epoch begins."""
        self.began, self.cpu = time.time(), cpu_seconds()

    def end(self, **more: float) -> None:
        """The training part of an epoch has ended, and the next begins, unless `begin` says later when it does."""
        now = {"rank": self.rank, "images": self.images, "began": self.began, "ended": time.time()}
        line = json.dumps(now | {"cpu": cpu_seconds() - self.cpu} | more) + "\n"
        os.write(1, line.encode())  # at once: another rank writes to the same file
        self.begin()


def cpu_seconds() -> float:
    """Of this process, and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
