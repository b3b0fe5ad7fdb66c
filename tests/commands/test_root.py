"""A part of a store is not taken for the store, by any command; a folder of the same name as a part is."""

from collections.abc import Callable

import pytest

import saltray
from saltray.commands.prepare import open_for_writing
from saltray.commands.root import open_root
from saltray.config import Config
from saltray.errors import ConfigError
from saltray.storage.uri import open_store


@pytest.mark.parametrize(
    ("part", "key", "what"),
    [
        ("runs/r1", "manifest.json", "a run"),
        ("searches/s1", "manifest.json", "a search"),
        ("pretrained/p1", "manifest.json", "a pretraining"),
        ("datasets/d1", "manifest.json", "a data set"),
        ("ensembles/e1", "v1/manifest.json", "an ensemble"),
        ("ensembles/e1/v1", "manifest.json", "an ensemble"),
        ("runs", "r1/manifest.json", "the folder runs of a store"),
        ("ensembles", "e1/v1/manifest.json", "the folder ensembles of a store"),
    ],
)
def test_a_part_of_a_store_is_refused(any_store_uri: str, part: str, key: str, what: str) -> None:
    uri = f"{any_store_uri}/{part}"
    open_store(uri).put(key, b"{}")
    with pytest.raises(ConfigError) as caught:
        open_root(uri)
    assert str(caught.value) == f"{uri} is {what}, not a store; name the store that it is in, {any_store_uri}"
    assert open_root(any_store_uri).uri == any_store_uri


@pytest.mark.parametrize("uri", ["runs", "runs/r1", "ensembles/e1", "datasets", "runs/r1/fold-0"])
def test_a_store_may_be_called_so(any_store_uri: str, uri: str) -> None:
    store = open_store(f"{any_store_uri}/{uri}")
    assert open_root(store.uri) == store  # there is nothing yet
    for name in ("r1", "v1"):
        store.put(f"runs/{name}/manifest.json", b"{}")
        assert open_root(store.uri) == store


@pytest.mark.parametrize(
    "use",
    [
        open_for_writing,
        saltray.list_runs,
        saltray.list_pretrainings,
        saltray.list_ensembles,
        lambda uri: saltray.status(uri, "r1"),
        lambda uri: saltray.compare("r1", "r2", store=uri),
        lambda uri: saltray.plan(Config(data="d", store=uri)),
        lambda uri: saltray.train(Config(data="d", store=uri)),
    ],
)
def test_every_command_refuses_it(any_store_uri: str, use: Callable[[str], object]) -> None:
    uri = f"{any_store_uri}/runs/r1"
    open_store(uri).put("manifest.json", b"{}")
    with pytest.raises(ConfigError, match=f"^{uri} is a run, not a store; "):
        use(uri)
    assert [entry.key for entry in open_store(uri).list()] == ["manifest.json"]
