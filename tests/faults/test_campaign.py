"""A short campaign: a training on a faulty S3 loses a rank, is told to end, resumes; and what the long one counts."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.campaign import THIN, objects, without_version
from faults.disturb import Attempt, Step, attempts, send
from faults.s3_proxy import SeededProxy, running

import saltray
from saltray.config import ClusterConfig, Config, FoldConfig, ModelConfig, OptimConfig, TrainConfig
from saltray.data.synthetic import write_dataset
from saltray.runs.records import FoldResult
from saltray.storage.uri import open_store

BUCKET = "saltray-test"
EPOCHS = 30
ONE_CPU = ("--cpus-per-worker", "1")


def after_epochs(count: int) -> Callable[[Attempt], bool]:
    return lambda attempt: attempt.epochs_since_step() >= count


def config(data: Path, store: Path) -> Config:
    """What THIN means."""
    return Config(
        data=str(data),
        store=str(store),
        folds=FoldConfig(count=2),
        model=ModelConfig(num_filters=4, encoder_width=8),
        optim=OptimConfig(warmup_epochs=0.5),
        train=TrainConfig(epochs=EPOCHS, batch_size=4, precision="fp32", checkpoint_every=0),
        cluster=ClusterConfig(cpus_per_worker=1),
    )


@pytest.mark.ray
def test_a_disturbed_training_gives_the_bytes_of_an_undisturbed_one(
    ray_here: None, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_dataset(tmp_path / "data", tiles=8, seed=1)
    right = saltray.train(config(data, tmp_path / "store"))
    proxy = SeededProxy(s3_server, 1, rate=0.2, limit=12)
    store = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    steps = [
        Step("SIGKILL rank", after_epochs(3), send("rank", "SIGKILL", min)),
        Step("SIGTERM driver", after_epochs(2), send("driver", "SIGTERM", min)),
        Step("SIGKILL gcs", after_epochs(2), send("gcs", "SIGKILL", min)),
    ]
    args = ("train", "--data", str(data), "--store", store, *THIN, "--train.epochs", str(EPOCHS), *ONE_CPU)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with running(proxy):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        done = list(attempts(args, tmp_path, steps, proxy))
    assert [attempt.faults for attempt in done] == [[]] * len(done)
    assert [attempt.code for attempt in done] == [130, 2, 0], [attempt.last_line for attempt in done]
    assert done[0].injected[:2] == ["SIGKILL rank", "SIGTERM driver"]
    assert "Ray on this machine has died: its GCS was killed by SIGKILL" in done[1].last_line
    assert proxy.injected.total() >= 8  # of 12 that it may
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server)
    for fold in right.results:
        there = open_store(store).get_record(f"runs/r1/fold-{fold.fold}/result.json", FoldResult)
        assert (there.weights_sha256, there.oof_sha256) == (fold.weights_sha256, fold.oof_sha256)
    assert [attempt.left() for attempt in done] == [set()] * 3


def write(root: Path, name: str, value: object) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_a_version_that_was_only_claimed_is_not_compared(tmp_path: Path) -> None:
    write(tmp_path, "store/ensembles/r1/v1/claim.json", {"version": "v1"})
    write(tmp_path, "store/ensembles/r1/v1/fold-0.safetensors", [])
    write(tmp_path, "store/ensembles/r1/v2/claim.json", {"version": "v2"})
    write(tmp_path, "store/ensembles/r1/v2/fold-0.safetensors", [1])
    write(tmp_path, "store/ensembles/r1/v2/manifest.json", {"version": "v2", "score": 1})
    write(tmp_path, "store/runs/r1/lock/000001.json", {})
    found = objects(tmp_path)
    assert set(found) == {"store/ensembles/r1/v/fold-0.safetensors", "store/ensembles/r1/v/manifest.json"}
    write(tmp_path, "right/ensembles/r1/v1/manifest.json", {"version": "v1", "score": 1})
    write(tmp_path, "wrong/ensembles/r1/v1/manifest.json", {"version": "v1", "score": 2})
    manifest = without_version(found["store/ensembles/r1/v/manifest.json"])
    assert manifest == without_version(tmp_path / "right/ensembles/r1/v1/manifest.json")
    assert manifest != without_version(tmp_path / "wrong/ensembles/r1/v1/manifest.json")


@pytest.mark.parametrize(
    ("code", "out", "err", "injected", "fault"),
    [
        (0, "", "", [], None),
        (2, "", "saltray: no room; free some", ["full store"], None),
        (130, "", "saltray: interrupted", ["SIGTERM driver"], None),
        (-9, "", "", ["SIGKILL driver"], None),
        (-9, "", "", ["SIGKILL rank"], "ended with -9"),
        (-1, "", "", ["SIGHUP driver"], "ended with -1"),
        (2, "", "saltray: no room; free some", [], "ended undisturbed"),
        (1, "Traceback (most recent call last)", "saltray: failed", ["SIGKILL gcs"], "traceback"),
        (1, "", "KeyError: 3", ["SIGKILL gcs"], "ended with 1"),
        (1, "", "[2026 E 1 2] rpc_client.h:204: Failed to connect to GCS", ["SIGKILL gcs"], "ended with 1"),
    ],
)
def test_how_an_attempt_may_end(
    tmp_path: Path, code: int, out: str, err: str, injected: list[str], fault: str | None
) -> None:
    attempt = Attempt((), tmp_path, injected=injected, code=code, errors=err, lines=[out])
    attempt.judge()
    assert [text.startswith(str(fault)) for text in attempt.faults] == ([True] if fault else [])
