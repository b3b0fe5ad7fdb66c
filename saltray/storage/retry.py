"""Our own patience with a store: exponential back-off with full jitter under one deadline.

The clients give up early (boto3 within a second, pyarrow after two), so theirs are kept low and this one governs.
The clock starts at the first failure, so that a long transfer that fails near its end still gets its second try.
The deadline is 120 s, or `SALTRAY_STORE_DEADLINE_S` of the environment, read when a store is made: workers on other
machines read their own. Back-off: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter
"""

import math
import os
import random
import time
from collections.abc import Callable
from typing import TypeVar

from saltray.errors import ConfigError, StorageError

DEADLINE_VARIABLE = "SALTRAY_STORE_DEADLINE_S"
DEADLINE_S = 120.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
# From the system, so that ranks with equal seeds do not return in step, and nobody's seeded numbers are used up.
JITTER = random.SystemRandom()

T = TypeVar("T")


def deadline_from_environment() -> float:
    """Seconds that a failing request is tried again for.

    Raises:
        ConfigError: the variable is not a number of seconds, 0 or more.
    """
    text = os.environ.get(DEADLINE_VARIABLE, str(DEADLINE_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"{DEADLINE_VARIABLE} is {text!r}; set it to a number of seconds such as 120, or unset it")
    return seconds


def retry(call: Callable[[], T], *, what: str, seconds: float, is_transient: Callable[[Exception], bool]) -> T:
    """Return `call()`, trying again while it fails transiently.

    Args:
        call: may be run any number of times.
        what: the subject of the error message.
        seconds: from the first failure to the last try.
        is_transient: whether an exception may pass by itself; others are raised as they are, at once.

    Raises:
        StorageError: the deadline passed; the last transient exception is its cause.
    """
    tries = 0
    end = math.inf
    while True:
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            now = time.monotonic()
            tries += 1
            end = min(end, now + seconds)
            if now >= end:
                raise StorageError(
                    f"{what}: gave up after {tries} tries over {seconds:g} s: {one_line(error)}; check that the store "
                    f"is up and reachable from here, or allow more time by {DEADLINE_VARIABLE}"
                ) from error
            time.sleep(min(pause(tries), end - now))


def pause(tries: int) -> float:
    """Seconds to wait after that many failed tries: uniform below a bound that doubles up to the longest."""
    return JITTER.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(tries, 10)))


def one_line(error: BaseException) -> str:
    """An exception's message with every run of white space as one blank, or its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
