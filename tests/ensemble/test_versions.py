"""Finding versions, and seeing whether they are whole."""

import dataclasses

import pytest

from saltray.ensemble.manifest import EnsembleManifest, FoldResult
from saltray.ensemble.versions import list_ensembles, read_manifest, resolve, verify
from saltray.errors import EnsembleError
from saltray.storage.base import Store

from .conftest import Publisher
from .test_manifest import MANIFEST


def put_version(store: Store, name: str, version: str) -> EnsembleManifest:
    """Put a manifest without its members."""
    manifest = dataclasses.replace(MANIFEST, name=name, version=version)
    store.put_json(f"ensembles/{name}/{version}/manifest.json", manifest.to_json())
    return manifest


def test_an_empty_store_lists_nothing(store: Store) -> None:
    assert list_ensembles(store) == []
    assert list_ensembles(store.uri) == []


def test_versions_are_listed_by_name_and_number(store: Store) -> None:
    for version in ("v10", "v9", "v1"):
        put_version(store, "b", version)
    put_version(store, "a", "v2")
    store.put("ensembles/b/v11/claim.json", b"{}")
    store.put("ensembles/b/notes/readme.md", b"not a version")
    listed = list_ensembles(store.uri)
    assert [(version.name, version.version) for version in listed] == [
        ("a", "v2"),
        ("b", "v1"),
        ("b", "v9"),
        ("b", "v10"),
        ("b", "v11"),
    ]
    assert [version.manifest is not None for version in listed] == [True, True, True, True, False]
    assert listed[3].manifest == dataclasses.replace(MANIFEST, name="b", version="v10")


def test_latest_is_the_highest_number_and_not_the_last_name(store: Store) -> None:
    for version in ("v9", "v10"):
        put_version(store, "r1", version)
    store.put("ensembles/r1/v11/claim.json", b"{}")
    home = f"{store.uri}/ensembles/r1"
    for uri in (home, f"{home}/", f"{home}/latest", f"{home}/latest/", f"{home}/v10"):
        assert resolve(uri).uri == f"{home}/v10"
        assert read_manifest(uri).version == "v10"
    assert resolve(f"{home}/v9/").uri == f"{home}/v9"


def test_an_ensemble_may_be_called_like_a_version(store: Store) -> None:
    for name in ("v3", "latest"):
        put_version(store, name, "v1")
        put_version(store, name, "v2")
        home = f"{store.uri}/ensembles/{name}"
        assert resolve(home).uri == f"{home}/v2"
        assert resolve(f"{home}/latest").uri == f"{home}/v2"
        assert resolve(f"{home}/v1").uri == f"{home}/v1"


@pytest.mark.parametrize("tail", ["", "/latest", "/v2", "/v01", "/v0", "/unknown"])
def test_what_is_not_there_is_one_line(store: Store, tail: str) -> None:
    put_version(store, "other", "v1")
    store.put("ensembles/r1/v1/claim.json", b"{}")
    store.put("ensembles/r1/v2/fold-0.safetensors", b"half")
    with pytest.raises(EnsembleError, match=r"no complete ensemble at .*saltray ensemble list") as caught:
        resolve(f"{store.uri}/ensembles/r1{tail}")
    assert "\n" not in str(caught.value)
    assert f"ensembles/r1{tail}" in str(caught.value)


def test_verify_finds_a_flipped_bit_and_a_lost_member(
    store: Store, results: list[FoldResult], weights: list[bytes], publish_run: Publisher
) -> None:
    publish_run(results)
    uri = f"{store.uri}/ensembles/r1"
    assert list(verify(uri)) == [("fold-0.safetensors", None), ("fold-1.safetensors", None)]
    store.put("ensembles/r1/v1/fold-1.safetensors", flipped(weights[1]))
    (first, second) = verify(uri)
    assert first == ("fold-0.safetensors", None)
    assert second[0] == "fold-1.safetensors"
    assert results[1].weights_sha256 in (second[1] or "")
    store.delete("ensembles/r1/v1/fold-1.safetensors")
    assert "no such object" in (dict(verify(uri))["fold-1.safetensors"] or "")


def flipped(data: bytes) -> bytes:
    """One bit of the last tensor turned round: still well-formed safetensors."""
    return data[:-1] + bytes([data[-1] ^ 1])
