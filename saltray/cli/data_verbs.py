"""The verbs of data sets, and the demo: each calls one function, and draws its result."""

from typing import Annotated

from tyro.conf import Positional, arg

import saltray
from saltray.cli import tables
from saltray.cli.console import console, observer, show_ray_output
from saltray.cli.flags import Verbose


def demo(*, tiles: int = 240, verbose: Verbose = False) -> None:
    """Train, publish and predict on synthetic tiles in ./saltray-demo; draws demo.png.

    Args:
        tiles: Number of synthetic training tiles.

    Examples:
        saltray demo
        saltray demo --tiles 800
    """
    show_ray_output(verbose)
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

    Examples:
        saltray synth tiles
        saltray synth s3://bucket/salt --packed --tiles 4000
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

    Examples:
        saltray check tiles
        saltray check s3://bucket/tgs-salt.zip
    """
    tables.print_summary(console, saltray.check(data, observer=observer))
