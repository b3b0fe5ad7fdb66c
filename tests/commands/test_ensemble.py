"""`saltray.list_ensembles`: those of a store by its URI."""

from typing import Any

import pytest
from samples import DIGEST, STORED_CONFIG, STORED_PROVENANCE

import saltray
from saltray.errors import ConfigError
from saltray.storage.uri import open_store

MANIFEST: dict[str, Any] = {
    "config": STORED_CONFIG,
    "dataset": DIGEST,
    "floor": 0.4166666666666667,
    "format": 1,
    "height": 101,
    "members": [{"fold": 0, "key": "fold-0.safetensors", "score": 0.5, "sha256": "b" * 64}],
    "name": "r2",
    "origin": None,
    "provenance": STORED_PROVENANCE,
    "run": "r2",
    "score": 0.5,
    "score_at_threshold": 0.75,
    "threshold": 0.5,
    "version": "v1",
    "width": 101,
}


def test_ensembles_of_an_earlier_version_and_incomplete_ones(any_store_uri: str) -> None:
    store = open_store(any_store_uri)
    assert saltray.list_ensembles(any_store_uri) == []
    store.put_json("ensembles/r2/v1/manifest.json", MANIFEST)
    store.put_json("ensembles/r2/v2/claim.json", {"version": "v2"})
    first, second = saltray.list_ensembles(any_store_uri)
    assert (first.name, first.version, second.name, second.version) == ("r2", "v1", "r2", "v2")
    assert first.manifest is not None
    assert (first.manifest.baseline, first.manifest.score_at_threshold) == (0.4166666666666667, 0.75)
    assert second.manifest is None


def test_what_is_no_store() -> None:
    with pytest.raises(ConfigError, match="'gs://' is unsupported"):
        saltray.list_ensembles("gs://bucket")
