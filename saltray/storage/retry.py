"""Retries of store requests: exponential backoff with full jitter until one deadline.

The clients' own retries end within two seconds, so they are kept to a minimum and this module decides. The deadline
counts from the first failure, so that a long transfer that fails near its end is retried too. It is 120 s, or
`SALTRAY_STORE_DEADLINE_S` of the environment, which is read when a store is created: each worker reads its own.
Method: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter
"""

import math
import os
import random
import time
from collections.abc import Callable
from typing import TypeVar

from saltray.errors import ConfigError, StorageError, one_line

DEADLINE_VARIABLE = "SALTRAY_STORE_DEADLINE_S"
DEADLINE_S = 120.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
# Independent of seeds: ranks with equal seeds must not retry in step, and seeded generators must not advance.
JITTER = random.SystemRandom()

T = TypeVar("T")


def deadline_from_environment() -> float:
    """How long a failing request is retried, in seconds.

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
    """Return `call()`, retried after transient errors until the deadline.

    Args:
        call: must be safe to repeat.
        what: the subject of the error message.
        seconds: from the first failure to the last attempt.
        is_transient: whether a retry may succeed after this exception; others are raised immediately.

    Raises:
        StorageError: the deadline passed; the last transient exception is its cause.
    """
    attempts = 0
    end = math.inf
    while True:
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            now = time.monotonic()
            attempts += 1
            end = min(end, now + seconds)
            if now >= end:
                count = "1 attempt" if attempts == 1 else f"{attempts} attempts"
                raise StorageError(
                    f"{what}: gave up after {count} over {seconds:g} s: {one_line(error)}; check that the "
                    f"store is up and reachable from this machine, or set {DEADLINE_VARIABLE} to a longer time"
                ) from error
            time.sleep(min(pause(attempts), end - now))


def pause(attempts: int) -> float:
    """Seconds to wait after that many failed attempts: uniform below a bound that doubles up to LONGEST_PAUSE_S."""
    return JITTER.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempts, 10)))
