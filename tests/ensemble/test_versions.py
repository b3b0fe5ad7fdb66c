"""Finding the versions of an ensemble, and which of them are complete."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable

import pytest
from samples import foreign_object

from saltray.config import Config
from saltray.ensemble.manifest import EnsembleManifest
from saltray.ensemble.versions import EnsembleVersion, list_ensembles, read_manifest, resolve, versions_of
from saltray.errors import EnsembleError, IntegrityError, NotFoundError
from saltray.storage.base import Store

PutVersion = Callable[[str, str], EnsembleManifest]


@pytest.fixture
def put_version(store: Store, manifest: EnsembleManifest) -> PutVersion:
    """Puts the manifest of a version of an ensemble, without its members."""

    def put(name: str, version: str) -> EnsembleManifest:
        own = dataclasses.replace(manifest, name=name, version=version)
        store.put_record(f"ensembles/{name}/{version}/manifest.json", own)
        return own

    return put


def test_an_empty_store_lists_nothing(store: Store) -> None:
    assert list_ensembles(store) == []
    assert list_ensembles(store.uri) == []


def test_versions_are_listed_by_name_and_number(store: Store, put_version: PutVersion) -> None:
    tenth, *_ = [put_version("b", version) for version in ("v10", "v9", "v1")]
    put_version("a", "v2")
    store.put("ensembles/b/v11/claim.json", b"{}")
    store.put("ensembles/b/notes/readme.md", b"not a version")
    foreign_object(store, "ensembles/a\tb/v1/manifest.json")
    listed = list_ensembles(store.uri)
    assert [(version.name, version.version) for version in listed] == [
        ("a", "v2"),
        ("b", "v1"),
        ("b", "v9"),
        ("b", "v10"),
        ("b", "v11"),
    ]
    assert [version.manifest is not None for version in listed] == [True, True, True, True, False]
    assert listed[3].manifest == tenth


@pytest.mark.parametrize("data", [b"{", b"[1]", b'{"format": 99}', b'{"format": 1}'])
def test_a_manifest_that_cannot_be_read_is_listed_without_it(
    store: Store, put_version: PutVersion, data: bytes
) -> None:
    store.put("ensembles/a/v1/manifest.json", data)
    good = put_version("b", "v1")
    assert [version.manifest for version in list_ensembles(store)] == [None, good]


def test_latest_is_the_highest_number_and_not_the_last_name(store: Store, put_version: PutVersion) -> None:
    for version in ("v9", "v10"):
        put_version("r1", version)
    store.put("ensembles/r1/v11/claim.json", b"{}")
    home = f"{store.uri}/ensembles/r1"
    for uri in (home, f"{home}/", f"{home}/latest", f"{home}/latest/", f"{home}/v10"):
        assert resolve(uri).uri == f"{home}/v10"
    assert resolve(f"{home}/v9/").uri == f"{home}/v9"


def test_an_ensemble_may_be_called_like_a_version(store: Store, put_version: PutVersion) -> None:
    for name in ("v3", "latest"):
        put_version(name, "v1")
        put_version(name, "v2")
        home = f"{store.uri}/ensembles/{name}"
        assert resolve(home).uri == f"{home}/v2"
        assert resolve(f"{home}/latest").uri == f"{home}/v2"
        assert resolve(f"{home}/v1").uri == f"{home}/v1"


@pytest.mark.parametrize("tail", ["", "/latest", "/v2", "/v01", "/v0", "/unknown"])
def test_a_missing_ensemble_is_one_line(store: Store, put_version: PutVersion, tail: str) -> None:
    put_version("other", "v1")
    store.put("ensembles/r1/v1/claim.json", b"{}")
    store.put("ensembles/r1/v2/fold-0.safetensors", b"half")
    with pytest.raises(EnsembleError, match=r"no complete ensemble at .*saltray ensemble list") as caught:
        resolve(f"{store.uri}/ensembles/r1{tail}")
    assert "\n" not in str(caught.value)
    assert f"ensembles/r1{tail}" in str(caught.value)


def test_read_manifest(store: Store, put_version: PutVersion) -> None:
    manifest = put_version("r1", "v2")
    assert read_manifest(store.sub("ensembles/r1/v2")) == manifest
    with pytest.raises(NotFoundError, match=r"v1/manifest\.json"):
        read_manifest(store.sub("ensembles/r1/v1"))
    store.put("ensembles/r1/v2/manifest.json", b"{")
    with pytest.raises(IntegrityError, match=r"v2/manifest\.json: not JSON"):
        read_manifest(store.sub("ensembles/r1/v2"))
    store.put("ensembles/r1/v3/fold-0.safetensors", b"half")
    corrupted, incomplete = versions_of(store, "r1")
    assert (corrupted.version, corrupted.manifest, incomplete) == ("v2", None, EnsembleVersion("r1", "v3", None))
    assert str(corrupted.fault).startswith(f"{store.uri}/ensembles/r1/v2/manifest.json: not JSON")


def test_listing_loads_no_torch(store: Store, put_version: PutVersion) -> None:
    put_version("r1", "v1")
    code = (
        "import sys\n"
        "from saltray.ensemble.versions import list_ensembles\n"
        f"(version,) = list_ensembles({store.uri!r})\n"
        "assert version.manifest is not None\n"
        "assert not {'torch', 'ray', 'pandas', 'pyarrow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("ensembles/blgo", "ensembles/blog"),
        ("ensembles/blgo/latest", "ensembles/blog"),
        ("ensembles/blog/v9", "ensembles/blog"),
        ("ensembles/blog/v9/", "ensembles/blog"),
        ("", "ensembles/blog"),
        ("ensembles/half/v1", None),
        ("ensembles/quite-another", None),
        ("elsewhere", None),
        ("blog", "ensembles/blog"),
        ("runs/blog", "ensembles/blog"),
        ("ensemble/blog/", "ensembles/blog"),
        ("runs/half", None),
    ],
)
def test_the_ensemble_that_may_have_been_meant_is_named(
    store: Store, put_version: PutVersion, given: str, near: str | None
) -> None:
    put_version("blog", "v2")
    store.put("ensembles/half/v1/claim.json", b"{}")
    with pytest.raises(EnsembleError) as caught:
        resolve(f"{store.uri}/{given}")
    assert str(caught.value).endswith(
        f"; did you mean {store.uri}/{near}?" if near else "; `saltray ensemble list` shows what a store holds"
    )


def test_an_ensemble_by_its_name_alone_may_be_meant_in_the_usual_store(
    put_version: PutVersion, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_version("blog", "v2")
    monkeypatch.setattr(Config, "store", store.uri)
    with pytest.raises(EnsembleError, match=f"^no complete ensemble at blog; did you mean {store.uri}/ensembles/blog"):
        resolve("blog")
