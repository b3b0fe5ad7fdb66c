"""`saltray synth`: a synthetic data set."""

from pathlib import Path

from saltray.data.synthetic import write_dataset


def synth(
    directory: str | Path, *, tiles: int, seed: int = 0, test_tiles: int | None = None, noise: float = 1.0
) -> Path:
    """Write a synthetic data set in the layout of the TGS Salt Identification Challenge, and return its folder.

    The folder appears only when it is complete. Tile i depends on the seed and on i, not on how many are asked for.

    Args:
        directory: a folder that is empty or does not exist yet.
        tiles: number of tiles with masks, 1 or more.
        seed: the same seed gives the same tiles.
        test_tiles: number of tiles without masks; a quarter of `tiles` unless given.
        noise: how much hides the salt: 1 is as in the field, 0 is nothing.

    Raises:
        ConfigError: a number is impossible.
        DataError: the folder is not empty, or cannot be written.
    """
    return write_dataset(directory, tiles=tiles, seed=seed, test_tiles=test_tiles, noise=noise)
