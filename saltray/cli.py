"""The command line: each verb parses, calls one function, prints. Flags are generated from the configuration."""

import dataclasses
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, UseAppendAction, arg
from tyro.extras import SubcommandApp

import saltray
from saltray.config import ClusterConfig, Config
from saltray.config_file import with_files
from saltray.errors import ConfigError, DataError, EnsembleError, SaltrayError

app = SubcommandApp()
ensemble_app = SubcommandApp()
console = Console(highlight=False, soft_wrap=True)
PROBLEMS_SHOWN = 50


@dataclass(frozen=True, kw_only=True)
class TrainFlags(Config):
    """`Config` with the hardware's flags at the top level: --workers-per-fold, --gpus-per-worker."""

    cluster: Annotated[ClusterConfig, arg(name="")] = field(default_factory=ClusterConfig)
    """The hardware."""
    config_file: Annotated[str | None, arg(name="config", metavar="FILE")] = None
    """A TOML or JSON file, here or s3://bucket/key, that holds any of these settings; flags beside it win."""

    def config(self) -> Config:
        """What the flags say, as the functions of the library take it."""
        return Config(**{item.name: getattr(self, item.name) for item in dataclasses.fields(Config)})


@dataclass(frozen=True, kw_only=True)
class SearchFlags:
    """The flags of a search."""

    trials: int = 16
    """Sets of values to try at most."""
    search: UseAppendAction[tuple[str, ...]] = ()
    """FIELD=log:LOW:HIGH, FIELD=lin:LOW:HIGH or FIELD=A,B,C; once for each field. optim.lr=log:1e-5:1e-2 unless given.
    Fields that are all lists make a grid."""
    folds: tuple[int, ...] = (0,)
    """Folds whose held-out tiles score a trial; of several the mean."""
    sampler: Literal["quasirandom", "tpe"] = "quasirandom"
    """quasirandom covers the space evenly; tpe, Optuna's, learns from the trials so far."""
    prune: bool = True
    """Stop poor trials early, by ASHA."""
    concurrent: int | None = None
    """Trials at once; more than fit makes a cluster grow. As many as fit now unless given."""
    search_seed: int = 0
    """Seed of the values to try."""

    def arguments(self) -> dict[str, Any]:
        """What the flags say, as the functions of the library take it."""
        return {
            "space": saltray.parse_space(self.search) if self.search else None,
            "trials": self.trials,
            "folds": self.folds,
            "sampler": self.sampler,
            "prune": self.prune,
            "concurrent": self.concurrent,
            "seed": self.search_seed,
        }


@app.command
def demo(*, tiles: int = 240) -> None:
    """Make synthetic tiles, train five folds at once, publish and predict, here in ./saltray-demo; draws demo.png.

    Args:
        tiles: Number of synthetic training tiles.
    """
    saltray.demo(Path("saltray-demo"), picture=Path("demo.png"), tiles=tiles)


@app.command
def synth(
    directory: Positional[Path],
    /,
    *,
    tiles: int = 400,
    test_tiles: int | None = None,
    seed: int = 0,
    noise: float = 1.0,
) -> None:
    """Write a synthetic data set in the Kaggle layout.

    Args:
        directory: Folder to make.
        tiles: Number of training tiles, with masks.
        test_tiles: Number of test tiles, without; a quarter of the training tiles unless given.
        seed: The same seed gives the same tiles.
        noise: What hides the salt: 1 is as in the field, 0 is none.
    """
    path = saltray.synth(directory, tiles=tiles, seed=seed, test_tiles=test_tiles, noise=noise)
    console.print(f"wrote {tiles} training tiles to {path}")


@app.command
def check(data: Positional[str], /) -> None:
    """Check a data set and count what is in it; every fault is listed by file.

    Args:
        data: A folder, a zip or s3://bucket/prefix in the Kaggle layout.
    """
    table = Table(show_header=False, box=None)
    for label, value in saltray.check(data).rows():
        table.add_row(label, value)
    console.print(table)


@app.command
def train(flags: Annotated[TrainFlags, arg(name="")], *, lr_from: str | None = None) -> None:
    """Train every fold, average them into an ensemble, publish it. The same command again finishes what is missing.

    Args:
        flags: The run.
        lr_from: searches/NAME: take the values that this search found best.
    """
    saltray.train(flags.config(), lr_from=lr_from)


@app.command
def tune(
    flags: Annotated[TrainFlags, arg(name="")],
    searching: Annotated[SearchFlags, arg(name="")],
    *,
    search_name: str = "s1",
    range_test: bool = False,
) -> None:
    """Search the learning rate, and other fields on request. The same command again goes on where it stopped.

    Args:
        flags: Data, store and recipe; --train.epochs is the length of a trial.
        searching: The search.
        search_name: Name of the search; its results are in STORE/searches/NAME.
        range_test: No search: one short run at a growing learning rate, and a suggestion.
    """
    if not range_test:
        saltray.tune(flags.config(), name=search_name, **searching.arguments())
        return
    if searching.search or len(searching.folds) != 1:
        raise ConfigError("--range-test is one run on one fold; leave out --search, and name one of --folds")
    saltray.range_test(flags.config(), name=search_name, fold=searching.folds[0])


@app.command
def run(
    flags: Annotated[TrainFlags, arg(name="")],
    searching: Annotated[SearchFlags, arg(name="")],
    *,
    search_name: str | None = None,
    search_epochs: int | None = None,
) -> None:
    """Search, train every fold with the best values, publish: `tune` and `train --lr-from` in one job.

    Args:
        flags: Data, store and recipe of both.
        searching: The search.
        search_name: Name of the search; that of the run unless given.
        search_epochs: Length of a trial in epochs; --train.epochs unless given.
    """
    saltray.run(flags.config(), name=search_name, epochs=search_epochs, **searching.arguments())


@app.command
def plan(
    flags: Annotated[TrainFlags, arg(name="")],
    *,
    on: Path | None = None,
    images_per_second: float | None = None,
    like: str | None = None,
    price: float | None = None,
) -> None:
    """Tell what `train` would run, on what, how long and for how much; nothing is started.

    Args:
        flags: The run.
        on: A cluster.yaml, whose machines count as possible; else the cluster that is connected, or this machine.
        images_per_second: Images that one GPU trains in a second.
        like: Name of a run of this store, to take that from.
        price: Of a GPU for an hour, in any currency.
    """
    planned = saltray.plan(flags.config(), on=on, images_per_second=images_per_second, like=like)
    for label, value in planned.rows(price):
        console.print(Text(f"{label:<16} {value}"))


@app.command
def status(*, store: str = "saltray-store", run: str | None = None) -> None:
    """Tell from the store alone how far a run is, fold by fold; without --run, which runs there are.

    Args:
        store: A folder or s3://bucket/prefix.
        run: Name of the run.
    """
    from saltray.distributed.progress_table import print_run, print_runs

    if run is not None:
        print_run(saltray.status(store=store, run=run))
    elif runs := saltray.list_runs(store):
        print_runs(runs)
    else:
        console.print(f"no run in {store} yet; `saltray train` makes one")


@app.command
def predict(
    *,
    ensemble: str,
    data: str,
    out: Path = Path("submission.csv"),
    part: Literal["test", "train"] = "test",
    masks: Path | None = None,
    probabilities: Path | None = None,
    tta: bool = True,
    workers: int | None = None,
) -> None:
    """Predict the masks of any number of tiles.

    Args:
        ensemble: STORE/ensembles/NAME, with /latest or /v3 at the end if you like.
        data: A folder, a zip or s3://bucket/prefix.
        out: Kaggle submission to write: id,rle_mask.
        part: Which images of the data set.
        masks: Folder for PNG masks.
        probabilities: Parquet file for the probabilities of every pixel.
        tta: Average over each tile and its mirror image.
        workers: Model actors; one a GPU where there are any, else one a CPU.
    """
    done = saltray.predict(
        ensemble=ensemble,
        data=data,
        out=out,
        part=part,
        masks=masks,
        probabilities=probabilities,
        tta=tta,
        workers=workers,
    )
    console.print(f"wrote {done.out}: {done.tiles} tiles, {done.empty} of them without salt")


@ensemble_app.command(name="list")
def list_(store: Positional[str] = "saltray-store", /) -> None:
    """List the ensembles of a store.

    Args:
        store: A folder or s3://bucket/prefix.
    """
    versions = saltray.list_ensembles(store)
    if not versions:
        console.print(f"no ensemble in {store} yet; `saltray train` publishes one")
        return
    table = Table("ensemble", "version", "folds", "score", "at threshold", "run")
    for row in versions:
        if row.manifest is None:
            table.add_row(row.name, row.version, "unfinished or unreadable")
            continue
        shown = row.manifest
        best = f"{shown.score_at_threshold:.4f} ({shown.threshold:.2f})"
        table.add_row(row.name, row.version, str(len(shown.members)), f"{shown.score:.4f}", best, shown.run)
    console.print(table)


@ensemble_app.command
def show(uri: Positional[str], /) -> None:
    """Print an ensemble's model card.

    Args:
        uri: STORE/ensembles/NAME, with /latest or /v3 at the end if you like.
    """
    console.print(Text(saltray.model_card(saltray.read_manifest(uri))))


@ensemble_app.command
def verify(uri: Positional[str], /) -> None:
    """Check the digest of every member of an ensemble.

    Args:
        uri: STORE/ensembles/NAME, with /latest or /v3 at the end if you like.
    """
    faults = []
    for key, fault in saltray.verify(uri):
        console.print(f"{key}  {'right' if fault is None else fault}")
        faults += [key] if fault else []
    if faults:
        raise EnsembleError(f"{len(faults)} members of {uri} are damaged: {', '.join(faults)}; publish it again")


app.command(ensemble_app, name="ensemble", help="List, show or verify published ensembles.")


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 some folds or all trials failed, 2 the user can mend it, 130 interrupted."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _terminate)  # what `ray job stop` sends
    try:
        app.cli(prog="saltray", description=saltray.__doc__, args=with_files(sys.argv[1:]))
    except SaltrayError as error:
        if isinstance(error, DataError):
            for problem in error.problems[:PROBLEMS_SHOWN]:
                errors.print(Text(f"  {problem}"))
            if len(error.problems) > PROBLEMS_SHOWN:
                errors.print(f"  and {len(error.problems) - PROBLEMS_SHOWN} more")
        errors.print(Text(f"saltray: {error}", style="red"))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        errors.print("\nsaltray: interrupted; the same command goes on where this one stopped")
        sys.exit(130)
    except BrokenPipeError:  # `saltray ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
