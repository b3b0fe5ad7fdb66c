"""A proxy in front of an S3 server that injects faults by a seeded schedule, and an outage on demand.

`FaultProxy` gives named requests named faults; here each request may get one, as the seed draws it.
"""

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from storage.faulty_s3 import FOREVER, Fault, FaultProxy

DELAY_S = 2.0
OUTAGE = "outage"
FAULTS: dict[str, Callable[[], Fault]] = {
    "500": partial(Fault, "", status=500, code="InternalError"),
    "503": partial(Fault, "", status=503, code="SlowDown"),
    "500 after effect": partial(Fault, "", status=500, code="InternalError", action="execute"),
    "reset": partial(Fault, "", action="reset", abrupt=True),
    "reset after effect": partial(Fault, "", action="lose reply", abrupt=True),
    "delay": partial(Fault, "", before=partial(time.sleep, DELAY_S)),
    "truncation": partial(Fault, "", action="truncate"),
    "reset in the body": partial(Fault, "", action="truncate", abrupt=True),
}
"""What the schedule draws from, by the name under which it is counted."""
IN_BODY = {"truncation", "reset in the body"}


class SeededProxy(FaultProxy):
    """Forwards requests to the server at `target`; the seed decides which of them get a fault, and which.

    The order of concurrent requests is not the seed's to decide, so the same seed gives the same faults to requests
    that come in the same order.

    Args:
        target: endpoint of the server.
        seed: of the schedule.
        rate: share of the requests that get a fault.
        limit: no more faults than these.
        kinds: names in FAULTS.

    Attributes:
        injected: number of faults so far, by kind.
    """

    def __init__(
        self, target: str, seed: int | str, *, rate: float = 0.1, limit: int = FOREVER, kinds: Sequence[str] = ()
    ) -> None:
        super().__init__(target)
        self.injected: Counter[str] = Counter()
        self.limit = limit
        self._rate = rate
        self._kinds = tuple(kinds or FAULTS)
        self._draw = random.Random(seed)
        self._drawing = threading.Lock()
        self._down_until = 0.0

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that was killed
            super().handle_error(request, client_address)

    def outage(self, seconds: float) -> None:
        """From now on, and for so long, every connection is reset."""
        self.injected[OUTAGE] += 1
        self._down_until = time.monotonic() + seconds

    def fault_for(self, method: str, target: str) -> Fault | None:
        if (named := super().fault_for(method, target)) is not None:
            return named
        if time.monotonic() < self._down_until:
            return FAULTS["reset"]()
        with self._drawing:
            kind = self._drawn(method)
            if kind is None:
                return None
            self.injected[kind] += 1
        return FAULTS[kind]()

    def _drawn(self, method: str) -> str | None:
        """The fault of the next request, if it gets one."""
        # Both are drawn for every request, so that a limit does not shift what follows.
        chance, kind = self._draw.random(), self._draw.choice(self._kinds)
        if chance >= self._rate or self.injected.total() - self.injected[OUTAGE] >= self.limit:
            return None
        return None if kind in IN_BODY and method != "GET" else kind


@contextmanager
def running(proxy: FaultProxy) -> Iterator[None]:
    """Serve for the time of the block."""
    with proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            proxy.shutdown()
            thread.join()
