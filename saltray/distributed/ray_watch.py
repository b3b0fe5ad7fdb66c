"""Tell that Ray's own processes have died, before Ray's core ends this process in its own way."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from saltray.distributed.ray_internals import WATCH_SIGNAL, RayDied, check_alive
from saltray.errors import ResourceError

POLL_S = 0.5
AGAIN_S = 10.0
"""Time after which the main thread is interrupted again: code that ignores exceptions may have run in it."""


@contextmanager
def ray_watched() -> Iterator[None]:
    """Leave the block as soon as a process has died without which the Ray that was started here cannot work.

    Only the main thread can be interrupted; in another one the block is left when it next asks Ray something.

    Raises:
        ResourceError: such a process has died.
    """
    ended = threading.Event()
    deaths: list[RayDied] = []
    main = threading.main_thread()

    def watch() -> None:
        while not ended.wait(POLL_S):
            try:
                check_alive()
            except RayDied:
                assert main.ident is not None
                signal.pthread_kill(main.ident, WATCH_SIGNAL)
                ended.wait(AGAIN_S)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        try:
            check_alive()
        except RayDied as death:
            deaths.append(death)
            raise

    in_main_thread = threading.current_thread() is main
    before = signal.signal(WATCH_SIGNAL, interrupt) if in_main_thread else None
    thread = threading.Thread(target=watch, daemon=True)
    if in_main_thread:
        thread.start()
    try:
        yield
    except KeyboardInterrupt as error:
        death = error if isinstance(error, RayDied) else next(iter(deaths), None)
        if death is None:  # somebody else's interrupt
            raise
        raise ResourceError(f"Ray on this machine has died: {death}; run the same command again to resume") from death
    finally:
        ended.set()
        if in_main_thread:
            signal.signal(WATCH_SIGNAL, before)
