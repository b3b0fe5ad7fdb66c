"""The keys of packed data sets in a store.

datasets/<name>/manifest.json             written last: a folder without it holds no data set
datasets/<name>/part-00000.parquet ...    the shards
datasets/<name>/index.parquet             ids and salt of all tiles
"""

import re

DATASETS = "datasets"
"""The folder of all packed data sets, relative to the store."""
MANIFEST = "manifest.json"
"""Of a data set's manifest, relative to the data set's folder."""
INDEX = "index.parquet"
"""Of the index of all tiles, relative to the data set's folder."""


def dataset_prefix(name: str) -> str:
    """The folder of a packed data set, relative to the store."""
    return f"{DATASETS}/{name}"


def is_dataset_prefix(uri: str) -> bool:
    """Whether a URI has the form of `dataset_prefix`, so that it may name a packed data set of the store."""
    return re.fullmatch(rf"{DATASETS}/[^/]+", uri) is not None


def shard_key(number: int) -> str:
    """Of a shard, counted from 0, relative to the data set's folder."""
    return f"part-{number:05d}.parquet"
