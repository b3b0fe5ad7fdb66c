"""`saltray.status` and `saltray.list_runs`: a store by its URI."""

from collections.abc import Callable

import pytest
from samples import DIGEST, STORED_CONFIG, STORED_PROVENANCE

import saltray
from saltray.errors import ConfigError, NotFoundError
from saltray.storage.uri import open_store


def test_a_run_of_an_earlier_version(any_store_uri: str) -> None:
    run = open_store(any_store_uri).sub("runs/r2")
    record = {
        "config": STORED_CONFIG,
        "dataset": DIGEST,
        "identity": "1" * 64,
        "origin": None,
        "provenance": STORED_PROVENANCE,
        "run": "r2",
    }
    run.put_json("manifest.json", record)
    run.put_json("lock/000001.json", {"host": "h", "pid": 1, "beat": 3, "released": True})
    run.put("fold-0/history.jsonl", b'{"at": 1.0, "note": "computes in fp32"}\n')
    found = saltray.status(any_store_uri, "r2")
    assert (found.run, found.uri, found.state, found.count) == ("r2", run.uri, "stopped", 2)
    assert str(found.owner) == "process 1 on h"
    assert [(fold.state, fold.of) for fold in found.folds] == [("unfinished", 60), ("not started", 60)]
    (row,) = saltray.list_runs(any_store_uri)
    assert vars(row).items() <= vars(found).items()


def test_an_empty_store(any_store_uri: str) -> None:
    assert saltray.list_runs(any_store_uri) == []
    with pytest.raises(NotFoundError, match="no run r1 in .*; there are none yet; `saltray train` creates one"):
        saltray.status(any_store_uri, "r1")


@pytest.mark.parametrize("call", [saltray.list_runs, lambda store: saltray.status(store, "r1")])
def test_what_is_no_store(call: Callable[[str], object]) -> None:
    with pytest.raises(ConfigError, match="'gs://' is unsupported"):
        call("gs://bucket")
