"""`saltray synth`: a synthetic data set."""

import os

from saltray.data.synthetic import write_dataset, write_files
from saltray.distributed.paths import check_kept
from saltray.errors import DataError
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
) -> str:
    """Write a synthetic data set in the layout of the TGS Salt Identification Challenge, and return its URI.

    A folder appears only when it is complete; in S3, nothing is left if a file cannot be written. Tile i depends on the
    seed and on i, not on how many are asked for.

    Args:
        directory: a folder that is empty or does not exist yet, or such an s3://bucket/prefix.
        tiles: number of tiles with masks, 1 or more.
        seed: the same seed gives the same tiles.
        test_tiles: number of tiles without masks; a quarter of `tiles` unless given.
        noise: how much hides the salt: 1 is as in the field, 0 is nothing.

    Raises:
        ConfigError: a number is impossible, or the URI is unsupported.
        DataError: the folder is not empty.
        StorageError: the folder or S3 cannot be written.
    """
    uri = os.fspath(directory)
    check_kept("the folder", uri)
    store = open_store(uri)
    if not store.is_remote:
        return str(write_dataset(local_path(uri), tiles=tiles, seed=seed, test_tiles=test_tiles, noise=noise))
    probe_output(store)
    if next(iter(store.list()), None) is not None:
        raise DataError(f"{store.uri} is not empty; choose another prefix, or delete it first")
    with scratch_folder() as folder:
        whole = folder / "data"
        try:
            write_files(whole, tiles=tiles, seed=seed, test_tiles=test_tiles, noise=noise)
        except OSError as error:
            raise no_scratch(error) from error
        put_whole_folder(store, whole)
    return store.uri
