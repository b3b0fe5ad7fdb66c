"""What a run would take, as a person reads it."""

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from saltray.errors import ConfigError

if TYPE_CHECKING:
    from saltray.commands.plan import RunPlan
    from saltray.distributed.capacity import JobResources


def print_plan(console: Console, plan: "RunPlan", price: float | None) -> None:
    """A line per number.

    Args:
        console: where to print.
        plan: the plan.
        price: of a GPU for an hour, in any currency.

    Raises:
        ConfigError: the price is impossible.
    """
    if price is not None and not 0 <= price < math.inf:
        raise ConfigError(f"price is {price}; use 0 or more")
    for label, value in [*_run_rows(plan), *_size_rows(plan), *_cost_rows(plan, price)]:
        console.print(Text(f"{label:<16} {value}"))


def _run_rows(plan: "RunPlan") -> list[tuple[str, str]]:
    config, resources, ranks = plan.config, plan.resources, plan.resources.ranks
    folds, train = config.folds.count, config.train
    jobs = f"{folds} folds x {ranks} rank{'s' * (ranks > 1)}"
    size = f"{plan.tiles.height}x{plan.tiles.width}" + f", enlarged {train.resize} times" * (train.resize > 1)
    return [
        ("run", f"{config.run}: {jobs}, {train.epochs} epochs of {config.model.title}"),
        ("tiles", f"{plan.tiles.count} of {size}, padded to {train.input_size}"),
        ("an epoch", f"up to {plan.steps} steps of {train.batch_size} tiles, {train.batch_size // ranks} a rank"),
        ("needed", f"{_devices(resources, folds)} for all folds at once, {_devices(resources, 1)} a fold"),
        ("present", f"{plan.present}: {_at_once(min(folds, plan.capacity.ready), folds)}"),
        ("possible", f"{plan.possible}: {_at_once(plan.capacity.concurrency, folds)}"),
    ]


def _size_rows(plan: "RunPlan") -> list[tuple[str, str]]:
    rows = [("to each node", f"{_bytes(plan.tiles.packed_bytes)} of tiles")]
    if plan.resources.ranks > 1:
        seconds = f"{plan.bytes_per_step * 8 / 10e9:.2g} s at 10 Gbit/s"
        text = f"{_bytes(plan.bytes_per_step)} of gradients a step: {seconds}, unless a step is longer"
        rows.append(("each rank sends", text))
    kept = f"at most one in {plan.config.train.checkpoint_every:g} s, the last 2 are kept"
    return [
        *rows,
        ("a checkpoint", f"{_bytes(plan.checkpoint_bytes)} a fold, {kept}"),
        ("the ensemble", _bytes(plan.ensemble_bytes)),
    ]


def _cost_rows(plan: "RunPlan", price: float | None) -> list[tuple[str, str]]:
    if plan.rank_hours is None or plan.hours is None:
        return [("hours and cost", "unknown; give --images-per-second of one GPU, or --like a run of this store")]
    unit = "GPU" if plan.resources.gpus else "rank"
    at_once = _at_once(plan.capacity.concurrency, plan.config.folds.count)
    speed = f"{plan.images_per_second:.0f} images/s a {unit}, {plan.speed_source}"
    rows = [
        (f"{unit}-hours", f"{plan.rank_hours:.3g} at {speed}"),
        ("time", f"{_duration(plan.hours)} with {at_once}, without start-up"),
    ]
    if price is not None:
        cost = f"{plan.rank_hours * price:.2f} at {price:g} a {unit}-hour"
        rows.append(("cost", f"{cost}, without start-up, idle nodes and the head node"))
    return rows


def _devices(resources: "JobResources", folds: int) -> str:
    from saltray.commands.plan import count_text

    ranks = folds * resources.ranks
    cpus = count_text(ranks * resources.cpus, "CPU")
    return f"{count_text(ranks * resources.gpus, 'GPU')} and {cpus}" if resources.gpus else cpus


def _at_once(count: int, folds: int) -> str:
    return f"{count} of {folds} folds at once"


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _duration(hours: float) -> str:
    minutes = hours * 60
    return f"{hours:.1f} h" if minutes >= 100 else f"{minutes:.0f} min" if minutes >= 2 else f"{minutes * 60:.0f} s"
