"""`saltray range-test`: one short run at a growing learning rate, for a first estimate."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from saltray.commands.prepare import Prepared, open_for_writing, prepare, share
from saltray.config import Config, check_name
from saltray.distributed.cluster import ray_cluster
from saltray.distributed.preflight import check_cluster, preflight
from saltray.errors import ConfigError, SearchFailedError
from saltray.progress import CapacityFound, DataNote, LockTakenOver, Observer, RangeTestPlanned, log_event
from saltray.report.search_figures import draw_range_test
from saltray.search.layout import MANIFEST, RANGE_TEST, RANGE_TEST_FIGURE, RANGE_TEST_NUMBERS, search_folder
from saltray.search.results import RangeTestRecord
from saltray.search.spec import DEFAULT_NAME
from saltray.storage.base import Store
from saltray.storage.lock import RunLock

if TYPE_CHECKING:
    from saltray.training.lr_range_test import LRRangeTest

POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class RangeTestManifest:
    """`range-test/manifest.json`: what runs; deleted with its folder at the end."""

    config: Config
    fold: int


@dataclass(frozen=True)
class RangeTestSteps:
    """From which learning rate to which, in how many steps."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, kw_only=True)
class RangeTestResult:
    """Loss against learning rate."""

    rates: tuple[float, ...]
    """Learning rate of each step, rising by the same factor from each to the next."""
    losses: tuple[float, ...]
    """Training loss of each step's batch, before the step."""
    smooth: tuple[float, ...]
    """Moving average of the losses, corrected for the tiles of each batch; see `training.lr_range_test`."""
    suggestion: float | None
    """A learning rate to start with; None where the loss did not fall."""
    uri: str
    """Where range-test.json and range-test.png are."""


def range_test(
    config: Config,
    *,
    name: str = DEFAULT_NAME,
    fold: int = 0,
    low: float = 1e-5,
    high: float = 1.0,
    steps: int = 100,
    observer: Observer = log_event,
) -> RangeTestResult:
    """Train once while the learning rate grows from `low` to `high`, until the loss diverges (Smith, 2015).

    The suggestion, a tenth of the rate of the lowest loss, is a first estimate; a search gives a better one.

    Args:
        config: data, store and recipe.
        name: name of the search beside which the results are kept.
        fold: the fold to hold out.
        low: first learning rate.
        high: last learning rate.
        steps: number of steps.
        observer: receives the events.

    Raises:
        as `tune`.
    """
    check_name(name, "search")
    if not 0 < low < high < float("inf"):
        raise ConfigError(f"the range {low:g}..{high:g} is not one of positive numbers; give the lower one first")
    if steps < 2:
        raise ConfigError(f"steps is {steps}; use 2 or more")
    if fold not in range(config.folds.count):
        raise ConfigError(f"there is no fold {fold}; the split has folds 0 to {config.folds.count - 1}")
    store = open_for_writing(config.store)
    preflight(config.cluster, jobs=1)
    prepared = prepare(config, store, observer=observer)
    home = store.sub(search_folder(name))
    for note in prepared.dataset.notes:
        observer(DataNote(note))
    observer(RangeTestPlanned(steps, config.train.batch_size, low, high))
    with RunLock(home, f"search {name}") as lock:
        if lock.taken_from is not None:
            observer(LockTakenOver(lock.taken_from))
        home = lock.guard(home)
        home.delete_prefix(RANGE_TEST)  # Ray Train would take an earlier job of this name for this one
        home.put_record(f"{RANGE_TEST}/{MANIFEST}", RangeTestManifest(config=config, fold=fold))
        found = _run(config, home.sub(RANGE_TEST), prepared, fold, RangeTestSteps(low, high, steps), observer)
        home.delete_prefix(RANGE_TEST)
        lock.check()
        numbers = RangeTestRecord(
            rates=found.rates, losses=found.losses, smooth=found.smooth, suggestion=found.suggestion, config=config
        )
        home.put_record(RANGE_TEST_NUMBERS, numbers)
        home.put(RANGE_TEST_FIGURE, draw_range_test(found.rates, found.losses, found.smooth, found.suggestion))
    return RangeTestResult(
        rates=found.rates, losses=found.losses, smooth=found.smooth, suggestion=found.suggestion, uri=home.uri
    )


def _run(
    config: Config, home: Store, prepared: Prepared, fold: int, steps: RangeTestSteps, observer: Observer
) -> "LRRangeTest":
    with ray_cluster(observer=observer) as where:
        from saltray.distributed.job_pool import JobPool
        from saltray.distributed.jobs import PermanentFailure
        from saltray.distributed.trainer import failure_reason
        from saltray.distributed.worker import RangeTestLoop
        from saltray.training.lr_range_test import LRRangeTest

        capacity = check_cluster(config.cluster, home, jobs=1, observer=observer)
        needs = str(capacity.resources)
        observer(CapacityFound(where=where, job="test", needs=needs, jobs=1, concurrency=1, ready=capacity.ready))
        job = replace(share(prepared, config, home), name="job", folds=(fold,))
        with JobPool(capacity.resources) as pool:
            pool.start(RangeTestLoop(steps.low, steps.high, steps.count), job)
            while (ended := pool.wait(POLL_S)) is None:
                pass
        match ended.value:
            case LRRangeTest() as found:
                return found
            case PermanentFailure(reason=text):
                reason = f"{text}; as these settings would fail again, change them"
            case Exception() as error:
                reason = f"{failure_reason(job, error)}; fix the cause and run it again"
            case other:
                reason = f"rank 0 returned {other!r} instead of a result; please report this"
    raise SearchFailedError(f"the range test failed: {reason}", {})
