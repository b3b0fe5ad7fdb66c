import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltray.errors import ConfigError, StorageError
from saltray.storage import retry as module
from saltray.storage.retry import DEADLINE_VARIABLE, LONGEST_PAUSE_S, deadline_from_environment, pause, retry


class Clock:
    """Time that passes only by sleeping and in `call`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def is_transient(error: Exception) -> bool:
    return isinstance(error, TimeoutError)


def test_the_first_success_is_returned(clock: Clock) -> None:
    outcomes = [TimeoutError(), TimeoutError(), "done"]

    def call() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert retry(call, what="x", seconds=120, is_transient=is_transient) == "done"
    assert outcomes == []


def test_other_errors_are_raised_at_once(clock: Clock) -> None:
    attempts = []

    def call() -> None:
        attempts.append(clock.now)
        raise KeyError("no")

    with pytest.raises(KeyError):
        retry(call, what="x", seconds=120, is_transient=is_transient)
    assert attempts == [1000.0]


def test_the_last_attempt_is_at_the_deadline(clock: Clock) -> None:
    attempts = []

    def call() -> None:
        attempts.append(clock.now)
        raise TimeoutError("the store\n  is down")

    with pytest.raises(
        StorageError, match=r"s3://b/k: gave up after \d+ attempts over 120 s: the store is down; "
    ) as caught:
        retry(call, what="s3://b/k", seconds=120, is_transient=is_transient)
    assert attempts[-1] == 1120.0
    assert "\n" not in str(caught.value)
    assert DEADLINE_VARIABLE in str(caught.value)


def test_the_deadline_counts_from_the_first_failure(clock: Clock) -> None:
    """A transfer that fails after ten minutes is retried."""
    attempts = []

    def call() -> str:
        clock.now += 600
        attempts.append(clock.now)
        if len(attempts) == 1:
            raise TimeoutError
        return "done"

    assert retry(call, what="x", seconds=1, is_transient=is_transient) == "done"


def test_a_deadline_of_zero_allows_one_attempt(clock: Clock) -> None:
    def call() -> None:
        raise TimeoutError

    with pytest.raises(StorageError, match="after 1 attempt over 0 s: TimeoutError"):
        retry(call, what="x", seconds=0, is_transient=is_transient)


@given(st.integers(1, 10_000))
def test_pauses_are_bounded_and_random(attempts: int) -> None:
    drawn = {pause(attempts) for _ in range(20)}
    assert len(drawn) > 1
    assert min(drawn) >= 0
    assert max(drawn) <= min(LONGEST_PAUSE_S, 0.1 * 2 ** min(attempts, 20))


@pytest.mark.parametrize("text", ["soon", "", "-1", "nan", "inf"])
def test_a_deadline_is_a_number_of_seconds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEADLINE_VARIABLE, text)
    with pytest.raises(ConfigError, match=DEADLINE_VARIABLE):
        deadline_from_environment()


def test_the_deadline_is_120_s_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEADLINE_VARIABLE, raising=False)
    assert deadline_from_environment() == 120
    monkeypatch.setenv(DEADLINE_VARIABLE, "2.5")
    assert deadline_from_environment() == 2.5
