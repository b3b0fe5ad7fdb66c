"""A whole run with everything on a real S3 server, and the same in a folder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ceph import Ceph
from command import Live, upload

import saltray
from saltray.config import Config, to_dict
from saltray.storage.names import open_store

pytestmark = pytest.mark.ray


@pytest.mark.usefixtures("ray_here")
def test_a_run_on_s3_gives_the_bytes_of_one_in_a_folder(
    small: Callable[..., Config],
    tiles_folder: Path,
    tmp_path: Path,
    ceph: Ceph,
    start: Callable[..., Live],
) -> None:
    upload(tiles_folder, "s3://saltray-test/whole/tiles")
    remote = small("s3://saltray-test/whole/tiles", "s3://saltray-test/whole/store")
    (tmp_path / "job.json").write_text(json.dumps(to_dict(remote)))
    # As a command: this process's Ray knows another server.
    live = start("train", "--config", "job.json")
    live.wait_for("report    s3://saltray-test/whole/store/runs/r1/report.html")
    assert live.process.wait(60) == 0

    local = saltray.train(replace(remote, data=str(tiles_folder), store=str(tmp_path / "store")))
    there = saltray.read_manifest("s3://saltray-test/whole/store/ensembles/r1")
    here = saltray.read_manifest(local.ensemble)
    assert [member.sha256 for member in there.members] == [member.sha256 for member in here.members]
    assert len(there.members) == 2
    assert there.dataset == here.dataset
    store = open_store("s3://saltray-test/whole")
    keys = [entry.key for entry in store.list()]
    assert "store/runs/r1/fold-0/checkpoints/epoch-00001/state.pt" in keys
    secrets = (ceph.access_key, ceph.secret_key)
    assert live.process.stderr is not None
    told = [*live.seen, live.process.stderr.read(), *(store.get(key).decode(errors="replace") for key in keys)]
    assert not [text for text in told if any(secret in text for secret in secrets)]
