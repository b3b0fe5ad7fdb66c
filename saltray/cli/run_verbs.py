"""The verbs of trainings, searches and runs. Their flags follow from the configuration."""

import shlex
import sys
from typing import Annotated

from tyro.conf import Positional, arg

import saltray
from saltray.cli import plan as plan_text
from saltray.cli import status as status_text
from saltray.cli import tables
from saltray.cli.console import console, observer, show_ray_output
from saltray.cli.flags import RunFlags, SearchFlags, TrainFlags, Verbose, without
from saltray.config import PretrainConfig

SEARCH_DEFAULTS = SearchFlags()
PRETRAIN_DEFAULTS = PretrainConfig()


def train(
    flags: Annotated[TrainFlags, arg(name="")],
    *,
    from_search: str | None = None,
    only_folds: tuple[int, ...] | None = None,
    verbose: Verbose = False,
) -> None:
    """Train every fold and publish the ensemble; run it again to resume.

    Args:
        flags: The run.
        from_search: searches/NAME: use the values that this search found best.
        only_folds: Train only these folds now, such as 0,1; the same command without it finishes the run.

    Examples:
        saltray train --data tiles --recipe best
        saltray train --data tiles --run r2 --train.epochs 20 --only-folds 0,1
        saltray train --config saltray-store/runs/r1 --run r2 --optim.lr 3e-4
    """
    show_ray_output(verbose)
    done = saltray.train(flags.config(), from_search=from_search, only_folds=only_folds, observer=observer)
    if isinstance(done, saltray.PartialResult):
        rest = shlex.join(["saltray", *without("--only-folds", sys.argv[1:])])
        tables.print_partial(console, done, rest)
    else:
        tables.print_train(console, done)


def pretrain(
    flags: Annotated[TrainFlags, arg(name="")],
    settings: Annotated[PretrainConfig, arg(name="pretrain")] = PRETRAIN_DEFAULTS,
    *,
    verbose: Verbose = False,
) -> None:
    """Pretrain the network on all images, without masks; run it again to resume.

    Args:
        flags: Data, store, network and how it is trained; split, run and loss do not count.
        settings: The pretraining.

    Examples:
        saltray pretrain --data tiles --train.epochs 100
        saltray pretrain --data tiles --pretrain.name p2 --pretrain.hidden 0.5
    """
    show_ray_output(verbose)
    tables.print_pretrain(console, saltray.pretrain(flags.config(), settings, observer=observer))


def tune(
    flags: Annotated[TrainFlags, arg(name="")],
    search: Annotated[SearchFlags, arg(name="search")] = SEARCH_DEFAULTS,
    *,
    verbose: Verbose = False,
) -> None:
    """Search the learning rate, or other settings; run it again to resume.

    Args:
        flags: Data, store and recipe.
        search: The search.

    Examples:
        saltray tune --data tiles --search.space optim.lr=log:1e-5:1e-2 --trials 9
        saltray train --data tiles --from-search searches/s1
    """
    show_ray_output(verbose)
    tables.print_search(console, saltray.tune(flags.config(), search, observer=observer))


def range_test(
    flags: Annotated[TrainFlags, arg(name="")],
    *,
    name: str = "s1",
    fold: int = 0,
    low: float = 1e-5,
    high: float = 1.0,
    steps: int = 100,
    verbose: Verbose = False,
) -> None:
    """Train a few steps at a growing learning rate, and suggest one.

    Args:
        flags: Data, store and recipe.
        name: Name of the search beside which the results are kept, in STORE/searches/NAME.
        fold: The fold to hold out.
        low: First learning rate.
        high: Last learning rate.
        steps: Number of steps.

    Examples:
        saltray range-test --data tiles
        saltray range-test --data tiles --low 1e-4 --high 0.1 --steps 200
    """
    show_ray_output(verbose)
    found = saltray.range_test(flags.config(), name=name, fold=fold, low=low, high=high, steps=steps, observer=observer)
    tables.print_range_test(console, found)


def run(
    flags: Annotated[RunFlags, arg(name="")],
    search: Annotated[SearchFlags, arg(name="search")] = SEARCH_DEFAULTS,
    *,
    verbose: Verbose = False,
) -> None:
    """Search, then train every fold with the best values and publish, in one job.

    Args:
        flags: Data, store and recipe of both.
        search: The search.

    Examples:
        saltray run --data tiles --search.space optim.lr=log:1e-4:1e-2 --trials 8
    """
    show_ray_output(verbose)
    tables.print_train(console, saltray.run(flags.config(), search, observer=observer))


def plan(
    flags: Annotated[TrainFlags, arg(name="")],
    *,
    on: str | None = None,
    images_per_second: float | None = None,
    like: str | None = None,
    price: float | None = None,
) -> None:
    """Show what `train` would run, where, how long and at what cost; starts nothing.

    Args:
        flags: The run.
        on: A cluster.yaml, whose nodes count as possible; else the cluster that is connected, or this machine.
        images_per_second: Images that one GPU trains in a second.
        like: Name of a run of this store, whose measured speed is used.
        price: Price of a GPU for an hour, in any currency.

    Examples:
        saltray plan --data tiles --recipe best --on cluster.yaml --price 2.5
        saltray plan --data tiles --like r1
    """
    planned = saltray.plan(flags.config(), on=on, images_per_second=images_per_second, like=like)
    plan_text.print_plan(console, planned, price)


def status(*, store: str = "saltray-store", run: str | None = None) -> None:
    """Show how far a run is; without --run, list runs and pretrainings.

    Args:
        store: A folder or s3://bucket/prefix.
        run: Name of the run.

    Examples:
        saltray status
        saltray status --store s3://bucket/salt --run r1
    """
    if run is not None:
        status_text.print_run(console, saltray.status(store, run))
        return
    runs, pretrainings = saltray.list_runs(store), saltray.list_pretrainings(store)
    if runs:
        status_text.print_runs(console, runs)
    else:
        console.print(f"no run in {store} yet; `saltray train` creates one")
    if pretrainings:
        status_text.print_pretrainings(console, pretrainings)


def compare(
    first: Annotated[Positional[str], arg(metavar="RUN")],
    second: Annotated[Positional[str], arg(metavar="RUN")],
    /,
    *,
    store: str = "saltray-store",
    out: str = "compare.png",
) -> None:
    """Compare two runs on the same tiles and folds, by paired bootstrap.

    Args:
        first: Name of a run of the store, or STORE/runs/NAME.
        second: The run that may be better, in the same way.
        store: A folder or s3://bucket/prefix.
        out: PNG to draw, a path or s3://bucket/key.

    Examples:
        saltray compare r1 r2
        saltray compare r1 s3://bucket/salt/runs/r7 --out r1-r7.png
    """
    tables.print_comparison(console, saltray.compare(first, second, store=store, out=out))


def report(
    uri: Annotated[Positional[str], arg(metavar="URI")],
    /,
    *,
    tile: Annotated[tuple[str, ...], arg(metavar="ID [ID ...]")] = (),
    out: str | None = None,
) -> None:
    """Write the page of a run, of some of its tiles, or of all runs of a store.

    Args:
        uri: STORE/runs/NAME or STORE/ensembles/NAME; STORE for all its runs.
        tile: Ids of held-out tiles to show instead: image, label, prediction, errors and probability.
        out: File to write, a path or s3://bucket/key; run-NAME.html, run-NAME-tiles.html or runs.html unless given.

    Examples:
        saltray report saltray-store/runs/r1
        saltray report saltray-store/runs/r1 --tile 0a1b2c3d4e --out tile.html
        saltray report s3://b/salt
    """
    written = saltray.write_report(uri, out, tiles=tile)
    console.print(f"wrote {written.out}: {written.shows}")
