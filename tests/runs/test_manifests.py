"""A manifest of this version, of an earlier one, of one that cannot be read, and one that is corrupted."""

from typing import Any

import pytest
from samples import DIGEST, FIRST_CONFIG, STORED_CONFIG, STORED_PROVENANCE

from saltray.ensemble.manifest import provenance
from saltray.errors import ConfigError, IntegrityError, NotFoundError
from saltray.runs.manifests import changed_unseen, manifest_of
from saltray.runs.records import RunManifest
from saltray.storage.base import Store

RECORD: dict[str, Any] = {
    "config": STORED_CONFIG,
    "dataset": DIGEST,
    "identity": "1" * 64,
    "provenance": STORED_PROVENANCE,
    "run": "r2",
}


def test_an_earlier_one_is_read(store: Store) -> None:
    with pytest.raises(NotFoundError):
        manifest_of(store, RunManifest)
    store.put_json("manifest.json", RECORD)
    assert manifest_of(store, RunManifest).config.train.epochs == 60
    store.put_json("manifest.json", RECORD | {"config": FIRST_CONFIG})
    assert manifest_of(store, RunManifest).config.loss.bce == 0.5


@pytest.mark.parametrize(
    ("made", "version"),
    [
        ({"saltray": "9.9.9"}, "9.9.9"),
        ({"saltray": "9.9.9", "commit": "0123456789abcdef"}, r"9.9.9 \(commit 0123456789ab\)"),
        ({"saltray": "\x1b[2J"}, r'"\\u001b\[2J"'),
        ({}, "an unknown one"),
    ],
)
def test_one_of_another_version_is_named_with_it(store: Store, made: dict[str, Any], version: str) -> None:
    store.put_json("manifest.json", RECORD | {"new": 1, "provenance": made})
    told = f"was made by another version of saltray, {version}, whose .*new is unknown.*; use that version for it"
    with pytest.raises(ConfigError, match=told) as caught:
        manifest_of(store, RunManifest)
    assert str(caught.value).isprintable()
    assert "its own page" not in str(caught.value)
    store.put("report.html", b"<html>")
    with pytest.raises(ConfigError, match="its own page is .*/report.html"):
        manifest_of(store, RunManifest)


@pytest.mark.parametrize(
    "record", [[], {}, {"provenance": 1}, RECORD | {"new": 1, "provenance": provenance()}, RECORD | {"provenance": 1}]
)
def test_what_is_corrupted_stays_that(store: Store, record: Any) -> None:
    store.put_json("manifest.json", record)
    with pytest.raises(IntegrityError, match=r"manifest\.json: "):
        manifest_of(store, RunManifest)
    store.put("manifest.json", b"{")
    with pytest.raises(IntegrityError, match="not JSON"):
        manifest_of(store, RunManifest)


def test_what_another_version_may_have_written_differently_is_not_put_down_to_the_weights_alone() -> None:
    assert changed_unseen(provenance()) == "initial weights"
    told = changed_unseen(provenance() | {"saltray": "9.9.9", "commit": None})
    assert told == "initial weights, or by another version of saltray, 9.9.9"
