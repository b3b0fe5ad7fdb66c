"""`saltray synth`: a synthetic data set."""

import os

from saltray.data.synthetic import Drawing, check_tiles, write_dataset, write_files, write_packed
from saltray.data.synthetic_tiles import SIDE
from saltray.distributed.paths import check_kept
from saltray.errors import ConfigError, DataError
from saltray.progress import Observer, log_event
from saltray.storage.files import no_scratch, scratch_folder
from saltray.storage.outputs import probe_output, put_whole_folder
from saltray.storage.uri import local_path, open_store


def synth(
    directory: str | os.PathLike[str],
    *,
    tiles: int,
    seed: int = 0,
    test_tiles: int | None = None,
    noise: float = 1.0,
    size: int = SIDE,
    packed: bool = False,
    observer: Observer = log_event,
) -> str:
    """Write a synthetic data set in the layout of the TGS Salt Identification Challenge, and return its URI.

    A folder appears only when it is complete; in S3, nothing is left if a file cannot be written. Tile i depends on the
    seed and on i, not on how many are asked for.

    Args:
        directory: a folder that is empty or does not exist yet, or such an s3://bucket/prefix; a store, if `packed`.
        tiles: number of tiles with masks, 1 or more.
        seed: the same seed gives the same tiles.
        test_tiles: number of tiles without masks; a quarter of `tiles` unless given.
        noise: how much hides the salt: 1 is as in the field, 0 is nothing.
        size: height and width of a tile, in pixels. Smaller ones are cut from tiles of 101 x 101.
        packed: write the tiles with masks into the store as a packed data set, as training makes it of the files. The
            URI returned is that of the packed data set, and can be trained on.
        observer: receives the events.

    Raises:
        ConfigError: a number is impossible, or the URI is unsupported.
        DataError: the folder is not empty.
        StorageError: the folder or S3 cannot be written.
    """
    uri = os.fspath(directory)
    check_kept("the folder", uri)
    store = open_store(uri)
    drawing = Drawing(seed=seed, noise=noise, size=size)
    tests = check_tiles(tiles, test_tiles)
    if packed:
        if test_tiles:
            raise ConfigError(f"test_tiles is {test_tiles}, but a packed data set has no test tiles; leave it out")
        store.check_writable()
        return write_packed(store, drawing, tiles, observer).uri
    if not store.is_remote:
        return str(
            write_dataset(
                local_path(uri),
                tiles=tiles,
                seed=seed,
                test_tiles=test_tiles,
                noise=noise,
                size=size,
                observer=observer,
            )
        )
    probe_output(store)
    if next(iter(store.list()), None) is not None:
        raise DataError(f"{store.uri} is not empty; choose another prefix, or delete it first")
    with scratch_folder() as folder:
        whole = folder / "data"
        try:
            write_files(whole, drawing, tiles, tests, observer)
        except OSError as error:
            raise no_scratch(error) from error
        put_whole_folder(store, whole)
    return store.uri
