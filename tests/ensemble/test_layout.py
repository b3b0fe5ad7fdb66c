"""The keys of ensembles, and version numbers."""

import pytest

from saltray.ensemble.layout import (
    ensemble_prefix,
    is_ensemble_uri,
    member_key,
    member_of_uri,
    store_of_uri,
    version_name,
    version_number,
    version_prefix,
)


def test_keys() -> None:
    assert ensemble_prefix("r1") == "ensembles/r1"
    assert version_prefix("r1", "v3") == "ensembles/r1/v3"
    assert member_key(4) == "fold-4.safetensors"
    assert member_key(4, 2) == "fold-4-snapshot-2.safetensors"


@pytest.mark.parametrize("number", [1, 9, 10, 123])
def test_a_version_is_named_by_its_number(number: int) -> None:
    assert version_name(number) == f"v{number}"
    assert version_number(version_name(number)) == number


@pytest.mark.parametrize("text", ["", "v", "v0", "v01", "V1", "1", "v1a", "av1", "v-1", "v1\n", "latest"])
def test_other_names_are_not_versions(text: str) -> None:
    assert version_number(text) == 0


@pytest.mark.parametrize("store", ["", "store/", "/a/ensembles/b/", "s3://bucket/", "file:///a/b/"])
def test_uris_of_ensembles_and_their_members(store: str) -> None:
    for end in ("", "/", "/v3", "/latest", "/v12/"):
        assert is_ensemble_uri(f"{store}ensembles/r1{end}")
    for other in ("ensembles", "ensembles/r1/v3/fold-0.safetensors", "runs/r1", "ensembles/r1/v0", "my-ensembles/r1"):
        assert not is_ensemble_uri(f"{store}{other}")
    assert member_of_uri(f"{store}ensembles/r1/v3/fold-12.safetensors") == (f"{store}ensembles/r1/v3", 12)
    for other in ("ensembles/r1/fold-0.safetensors", "ensembles/r1/v3/model.safetensors", "fold-0.safetensors"):
        assert member_of_uri(f"{store}{other}") is None


@pytest.mark.parametrize("end", ["", "/v3", "/latest"])
@pytest.mark.parametrize("name", ["r1", "ensembles"])
def test_the_store_of_an_ensemble(name: str, end: str) -> None:
    for before, store in (("s3://b/salt/", "s3://b/salt"), ("a/ensembles/b/", "a/ensembles/b"), ("", "."), ("/", "/")):
        assert store_of_uri(f"{before}ensembles/{name}{end}") == store
    assert store_of_uri(f"runs/{name}") is None
