"""The verbs: each parses its flags, calls one function, draws its result. Flags follow from the configuration."""

import io
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated, Literal

from rich.console import Console
from rich.text import Text
from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

import saltray
from saltray.cli import plan as plan_text
from saltray.cli import status as status_text
from saltray.cli import tables
from saltray.cli.flags import REGISTRY, RunFlags, SearchFlags, TrainFlags, refuse_misused, with_file, without
from saltray.cli.live import LocalConsole
from saltray.cli.observer import TerminalObserver
from saltray.cli.signals import Interrupted, Interrupter
from saltray.config import PretrainConfig
from saltray.errors import DataError, EnsembleError, SaltrayError, SearchFailedError

LOG_WIDTH = 1000
"""Columns of a log file, in which nobody sees a line wrapped: tables are as wide as they need."""
# One line stays one line, however narrow the terminal, and is taken literally.
console = LocalConsole(
    highlight=False,
    markup=False,
    soft_wrap=True,
    width=None if sys.stdout.isatty() else LOG_WIDTH,
    force_interactive=None if sys.stdout.isatty() else False,  # FORCE_COLOR makes no terminal of a log file
)
observer = TerminalObserver(console)
PROBLEMS_SHOWN = 50
SEARCH_DEFAULTS = SearchFlags()
PRETRAIN_DEFAULTS = PretrainConfig()


def demo(*, tiles: int = 240) -> None:
    """Train, publish and predict on synthetic tiles in ./saltray-demo; draws demo.png.

    Args:
        tiles: Number of synthetic training tiles.
    """
    done = saltray.demo("saltray-demo", picture="demo.png", tiles=tiles, observer=observer)
    tables.print_train(console, done.train)
    test = done.prediction
    console.print(f"wrote {test.out}: {test.tiles} test tiles, {test.empty} of them without salt")
    console.print(f"picture   {done.picture}")


def synth(
    directory: Annotated[Positional[str], arg(metavar="PATH")],
    /,
    *,
    tiles: int = 400,
    test_tiles: int | None = None,
    seed: int = 0,
    noise: float = 1.0,
    size: int = 101,
    packed: bool = False,
) -> None:
    """Write a synthetic data set in the Kaggle layout, or packed.

    Args:
        directory: Folder to make, or s3://bucket/prefix; with --packed, the store.
        tiles: Number of training tiles, with masks.
        test_tiles: Number of test tiles, without; a quarter of the training tiles unless given.
        seed: The same seed gives the same tiles.
        noise: How much hides the salt: 1 is as in the field, 0 is nothing.
        size: Height and width of a tile, 101 or less.
        packed: Write a packed data set into the store, to train on, and no files.
    """
    written = saltray.synth(
        directory,
        tiles=tiles,
        seed=seed,
        test_tiles=test_tiles,
        noise=noise,
        size=size,
        packed=packed,
        observer=observer,
    )
    console.print(f"wrote {tiles} training tiles to {written}")


def check(data: Annotated[Positional[str], arg(metavar="DATA")], /) -> None:
    """Check a data set and count what is in it; every fault is listed by file.

    Args:
        data: A folder, a zip or s3://bucket/prefix in the Kaggle layout.
    """
    tables.print_summary(console, saltray.check(data, observer=observer))


def train(
    flags: Annotated[TrainFlags, arg(name="")],
    *,
    from_search: str | None = None,
    only_folds: tuple[int, ...] | None = None,
) -> None:
    """Train every fold and publish the ensemble; run it again to resume.

    Args:
        flags: The run.
        from_search: searches/NAME: use the values that this search found best.
        only_folds: Train only these folds now, such as 0,1; the same command without it finishes the run.
    """
    done = saltray.train(flags.config(), from_search=from_search, only_folds=only_folds, observer=observer)
    if isinstance(done, saltray.PartialResult):
        rest = shlex.join(["saltray", *without("--only-folds", sys.argv[1:])])
        tables.print_partial(console, done, rest)
    else:
        tables.print_train(console, done)


def pretrain(
    flags: Annotated[TrainFlags, arg(name="")],
    settings: Annotated[PretrainConfig, arg(name="pretrain")] = PRETRAIN_DEFAULTS,
) -> None:
    """Train the network to fill in hidden patches of all images, without masks; run it again to resume.

    Args:
        flags: Data, store, network and how it is trained; split, run and loss do not count.
        settings: The pretraining.
    """
    tables.print_pretrain(console, saltray.pretrain(flags.config(), settings, observer=observer))


def tune(
    flags: Annotated[TrainFlags, arg(name="")], search: Annotated[SearchFlags, arg(name="search")] = SEARCH_DEFAULTS
) -> None:
    """Search the learning rate, or other settings; run it again to resume.

    Args:
        flags: Data, store and recipe.
        search: The search.
    """
    tables.print_search(console, saltray.tune(flags.config(), search, observer=observer))


def range_test(
    flags: Annotated[TrainFlags, arg(name="")],
    *,
    name: str = "s1",
    fold: int = 0,
    low: float = 1e-5,
    high: float = 1.0,
    steps: int = 100,
) -> None:
    """Train a few steps at a growing learning rate, and suggest one.

    Args:
        flags: Data, store and recipe.
        name: Name of the search beside which the results are kept, in STORE/searches/NAME.
        fold: The fold to hold out.
        low: First learning rate.
        high: Last learning rate.
        steps: Number of steps.
    """
    found = saltray.range_test(flags.config(), name=name, fold=fold, low=low, high=high, steps=steps, observer=observer)
    tables.print_range_test(console, found)


def run(
    flags: Annotated[RunFlags, arg(name="")], search: Annotated[SearchFlags, arg(name="search")] = SEARCH_DEFAULTS
) -> None:
    """Search, then train every fold with the best values and publish, in one job.

    Args:
        flags: Data, store and recipe of both.
        search: The search.
    """
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
    """
    planned = saltray.plan(flags.config(), on=on, images_per_second=images_per_second, like=like)
    plan_text.print_plan(console, planned, price)


def status(*, store: str = "saltray-store", run: str | None = None) -> None:
    """Show how far a run is; without --run, list runs and pretrainings.

    Args:
        store: A folder or s3://bucket/prefix.
        run: Name of the run.
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
    """
    written = saltray.write_report(uri, out, tiles=tile)
    console.print(f"wrote {written.out}: {written.shows}")


def predict(
    *,
    ensemble: str,
    data: str,
    out: str = "submission.csv",
    part: Literal["test", "train"] = "test",
    masks: str | None = None,
    probabilities: str | None = None,
    tta: bool = True,
    workers: int | None = None,
) -> None:
    """Predict the masks of any number of tiles.

    Args:
        ensemble: STORE/ensembles/NAME, with /latest or /v3 at the end if you like.
        data: A folder, a zip or s3://bucket/prefix.
        out: Kaggle submission to write: id,rle_mask. It is a path or s3://bucket/key, as are the next two.
        part: Which images of the data set.
        masks: Folder for PNG masks.
        probabilities: Parquet file for the probabilities of every pixel.
        tta: Average over each tile and its mirror image.
        workers: Model actors; one per GPU where there are any, else one per CPU.
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
        observer=observer,
    )
    tables.print_prediction(console, done)


def serve(
    *,
    ensemble: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    route: str = "/",
    replicas: int = 1,
    max_replicas: int | None = None,
    queue: int = 128,
    token_file: str | None = None,
    tta: bool = True,
) -> None:
    """Answer requests with the masks of tiles, and show a page to drop tiles on, until Ctrl-C.

    Args:
        ensemble: STORE/ensembles/NAME; a newer version is served once it is published. With /v3 at the end, that one.
        host: Address to listen on; one that other machines reach needs a token, in SALTRAY_SERVE_TOKEN or a file.
        port: Port to listen on.
        route: Path before /predict, for several applications on one cluster.
        replicas: Processes with the models; one GPU each where there are any.
        max_replicas: Replicas at most, where requests wait; as many as --replicas unless given.
        queue: Requests that wait at most; more are answered by 503.
        token_file: File with the token that clients send.
        tta: Average over each tile and its mirror image.
    """
    saltray.serve(
        ensemble=ensemble,
        host=host,
        port=port,
        route=route,
        replicas=replicas,
        max_replicas=max_replicas,
        queue=queue,
        token_file=token_file,
        tta=tta,
        observer=observer,
    )


def export(
    uri: Annotated[Positional[str], arg(metavar="URI")], /, *, out: str = "ensemble.onnx", tta: bool = True
) -> None:
    """Write an ensemble as one file for other programs: ONNX, or torch.export.

    Args:
        uri: STORE/ensembles/NAME, with /latest or /v3 at the end if you like.
        out: File to write, a path or s3://bucket/key; .onnx for ONNX, .pt2 for torch.export.
        tta: Average over each tile and its mirror image, inside the file.
    """
    tables.print_exported(console, saltray.export(uri, out, tta=tta))


def list_ensembles(store: Annotated[Positional[str], arg(metavar="STORE")] = "saltray-store", /) -> None:
    """List the ensembles of a store.

    Args:
        store: A folder or s3://bucket/prefix.
    """
    if versions := saltray.list_ensembles(store):
        tables.print_ensembles(console, versions)
    else:
        console.print(f"no ensemble in {store} yet; `saltray train` publishes one")


def show(uri: Annotated[Positional[str], arg(metavar="URI")], /) -> None:
    """Print an ensemble's model card.

    Args:
        uri: STORE/ensembles/NAME, with /latest or /v3 at the end if you like.
    """
    console.print(saltray.Ensemble.card(uri))


def verify(uri: Annotated[Positional[str], arg(metavar="URI")], /) -> None:
    """Check the digest of every member of an ensemble.

    Args:
        uri: STORE/ensembles/NAME, with /latest or /v3 at the end if you like.
    """
    members = saltray.Ensemble.verify(uri)
    for member in members:
        console.print(f"{member.key}  {member.fault or 'correct'}")
    if faults := [member.key for member in members if member.fault]:
        raise EnsembleError(f"{len(faults)} members of {uri} are corrupted: {', '.join(faults)}; publish it again")


def make_app(words: Sequence[str]) -> SubcommandApp:
    """All verbs, with the settings of the file that the command line names as defaults.

    Raises:
        ConfigError, StorageError: the file cannot be used.
    """
    app, ensemble = SubcommandApp(), SubcommandApp()
    app.command(demo)
    app.command(synth)
    app.command(check)
    app.command(name="train")(with_file(train, words, flags=TrainFlags))
    app.command(name="pretrain")(with_file(pretrain, words, flags=TrainFlags, settings=PretrainConfig))
    app.command(name="tune")(with_file(tune, words, flags=TrainFlags, search=SearchFlags))
    app.command(name="range-test")(with_file(range_test, words, flags=TrainFlags))
    app.command(name="run")(with_file(run, words, flags=RunFlags, search=SearchFlags))
    app.command(name="plan")(with_file(plan, words, flags=TrainFlags))
    app.command(status)
    app.command(compare)
    app.command(report)
    app.command(predict)
    app.command(serve)
    app.command(export)
    ensemble.command(name="list")(list_ensembles)
    ensemble.command(show)
    ensemble.command(verify)
    app.command(ensemble, name="ensemble", help="List, show or verify published ensembles.")
    return app


def main() -> None:
    """Entry point.

    Exit codes: 0 done, 1 some folds or all trials failed, 2 the user can fix it, 129 hung up, 130 interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # no letter that its encoding lacks ends a command
        sys.stdout.reconfigure(errors="replace")
    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if sys.platform == "win32":
        errors.print("saltray: it runs on Linux and macOS; on Windows, use it in WSL 2")
        sys.exit(2)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # without a home for its fonts it warns, and draws
    Interrupter().install()
    words = sys.argv[1:]
    try:
        refuse_misused(words)
        try:
            make_app(words).cli(prog="saltray", description=saltray.__doc__, args=words, registry=REGISTRY)
        finally:
            observer.close()
    except SaltrayError as error:
        for line in _details(error):
            errors.print(line)
        errors.print(Text(f"saltray: {error}", style="red"))
        sys.exit(error.exit_code)
    except KeyboardInterrupt as interrupt:
        resumes = bool(words) and words[0] in ("demo", "train", "pretrain", "tune", "run")
        errors.print("\nsaltray: interrupted" + "; run the same command again to resume" * resumes)
        sys.exit(interrupt.exit_code if isinstance(interrupt, Interrupted) else 130)
    except BrokenPipeError:  # `saltray ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _details(error: SaltrayError) -> list[str]:
    """What belongs above an error's own line."""
    if isinstance(error, DataError):
        hidden = len(error.problems) - PROBLEMS_SHOWN
        shown = [f"  {problem}" for problem in error.problems[:PROBLEMS_SHOWN]]
        return [*shown, *([f"  and {hidden} more"] if hidden > 0 else [])]
    if isinstance(error, SearchFailedError):
        return [f"  {trial}: {reason}" for trial, reason in error.failures.items()]
    return []
