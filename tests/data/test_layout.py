"""The keys of packed data sets."""

import pytest

from saltray.data.layout import dataset_prefix, is_dataset_prefix, shard_key


def test_keys() -> None:
    assert dataset_prefix("raw-0123") == "datasets/raw-0123"
    assert [shard_key(0), shard_key(12)] == ["part-00000.parquet", "part-00012.parquet"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (dataset_prefix("x"), True),
        ("datasets/", False),
        ("datasets/x/y", False),
        ("./datasets/x", False),
        ("s3://bucket/datasets/x", False),
    ],
)
def test_is_dataset_prefix(uri: str, expected: bool) -> None:
    assert is_dataset_prefix(uri) is expected
