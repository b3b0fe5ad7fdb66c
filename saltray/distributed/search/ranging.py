"""`saltray tune --range-test`: one short run at a growing learning rate, for a first answer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from saltray.config import Config, check_name, to_dict
from saltray.data.folds import assign_folds
from saltray.data.packing import load_tiles
from saltray.data.tiles import Tiles
from saltray.distributed.console import console
from saltray.distributed.room import check_folder, find_room
from saltray.distributed.run_records import initial_weights
from saltray.distributed.runtime import ray_cluster
from saltray.errors import ConfigError, SearchFailedError
from saltray.report.search import draw_range_test
from saltray.storage.base import Store
from saltray.storage.lock import RunLock
from saltray.storage.names import open_store

if TYPE_CHECKING:
    from saltray.training.lr_range_test import LRRangeTest

FOLDER, PICTURE, NUMBERS = "range-test", "range-test.png", "range-test.json"
POLL_S = 0.5
ROWS = 20
"""Steps that the printed table shows, about."""


@dataclass(frozen=True)
class RangeTest:
    """Loss against learning rate."""

    rates: tuple[float, ...]
    """Learning rate of each step, rising by the same factor from each to the next."""
    losses: tuple[float, ...]
    """Training loss of each step's batch, before the step."""
    smooth: tuple[float, ...]
    """Moving average of the losses, without what they owe to the tiles in the batch; see `training.sweep`."""
    suggestion: float | None
    """A learning rate to begin with; None where the loss fell nowhere."""
    uri: str
    """Where range-test.json and range-test.png are."""


def range_test(
    config: Config, *, name: str = "s1", fold: int = 0, low: float = 1e-5, high: float = 1.0, steps: int = 100
) -> RangeTest:
    """Train once while the learning rate grows from `low` to `high`, until the loss blows up (Smith, 2015).

    The suggestion, a tenth of the rate of the lowest loss, is a first answer; a search gives a better one.

    Args:
        config: data, store and recipe.
        name: name of the search beside which the results are kept.
        fold: the fold to hold out.
        low: first learning rate.
        high: last learning rate.
        steps: number of steps.

    Raises:
        as `tune`.
    """
    check_name(name, "search")
    if not 0 < low < high < float("inf"):
        raise ConfigError(f"the range {low:g}..{high:g} is not one of positive numbers, the lower first")
    if steps < 2:
        raise ConfigError(f"steps is {steps}; use 2 or more")
    if fold not in range(config.folds.count):
        raise ConfigError(f"there is no fold {fold}; the split has folds 0 to {config.folds.count - 1}")
    check_folder(config.store)
    store = open_store(config.store)
    store.check_writable()
    tiles, _ = load_tiles(config.data, store)
    assert tiles.masks is not None
    fold_of = assign_folds(tiles.ids, tiles.masks, config.folds)
    part = store.sub(f"searches/{name}")
    console.print(f"range test: {steps} steps of {config.train.batch_size} tiles, learning rate {low:g} to {high:g}")
    with RunLock(part, f"search {name}"):
        part.delete_prefix(FOLDER)  # Ray Train takes a finished job of the same name for this one
        part.put_json(f"{FOLDER}/manifest.json", {"config": to_dict(config), "fold": fold})
        found = _sweep(config, part, tiles, fold_of, fold, (low, high, steps))
        part.delete_prefix(FOLDER)
        return _conclude(config, part, found)


def _sweep(
    config: Config, store: Store, tiles: Tiles, fold_of: NDArray[np.int64], fold: int, how: tuple[float, float, int]
) -> "LRRangeTest":
    initial = initial_weights(config) if config.model.weights else None
    with ray_cluster() as where:
        import ray

        from saltray.distributed.jobs import Job, Stopped
        from saltray.distributed.trainers import Team, reason
        from saltray.distributed.worker import RangeTest as Loop
        from saltray.training.lr_range_test import LRRangeTest

        demand = find_room(config.cluster, store.sub(FOLDER), jobs=1, sharing=1).demand
        console.print(f"on {where}: it takes {demand}")
        weights = None if initial is None else ray.put(initial)
        job = Job(config, "job", (fold,), ray.put(tiles), fold_of, store.sub(FOLDER), weights)
        with Team(demand) as team:
            team.start(Loop(*how), job)
            while (ended := team.wait(POLL_S)) is None:
                pass
        match ended.answer:
            case LRRangeTest() as found:
                return found
            case Stopped(reason=text):
                raise SearchFailedError(f"the range test failed: {text}", {})
            case Exception() as error:
                raise SearchFailedError(f"the range test failed: {reason(job, error)}", {})
            case other:
                raise SearchFailedError(f"rank 0 returned {other!r} in place of a result; please report this", {})


def _conclude(config: Config, store: Store, found: "LRRangeTest") -> RangeTest:
    record = {
        "rates": found.rates,
        "losses": found.losses,
        "smooth": found.smooth,
        "suggestion": found.suggestion,
        "config": to_dict(config),
    }
    store.put_json(NUMBERS, record)
    store.put(PICTURE, draw_range_test(found.rates, found.losses, found.smooth, found.suggestion))
    table = Table("learning rate", "loss", "average", title="range test", title_justify="left")
    for at in range(0, len(found.rates), max(1, len(found.rates) // ROWS)):
        table.add_row(f"{found.rates[at]:.2g}", f"{found.losses[at]:.4f}", f"{found.smooth[at]:.4f}")
    console.print(table)
    if found.suggestion is None:
        console.print("the loss fell at no learning rate: no suggestion; try a wider range or more steps")
    else:
        console.print(f"suggested learning rate: {found.suggestion:.2g}; to refine it, search around it:")
        console.print(f"  --search optim.lr=log:{found.suggestion / 10:.1g}:{found.suggestion * 10:.1g}")
    console.print(f"results   {store.uri} ({NUMBERS}, {PICTURE})")
    return RangeTest(found.rates, found.losses, found.smooth, found.suggestion, store.uri)
