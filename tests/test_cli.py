"""The command line: what a wrong command is told, how an interrupted run ends and goes on, and the help."""

import json
import signal
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import COMMAND, Answer, Live, Saltray, check_refusal
from PIL import Image

from saltray.config import Config, to_dict
from saltray.data.synthetic import synth
from saltray.ensemble.manifest import Manifest, Member, provenance
from saltray.storage.base import Store
from saltray.storage.names import open_store

SMALL = (
    *("--model.num-filters", "4", "--model.encoder-width", "8", "--train.epochs", "200", "--train.batch-size", "4"),
    *("--train.precision", "fp32", "--train.checkpoint-every", "0", "--folds.count", "2"),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight training tiles and two test tiles in the Kaggle layout, to be spoilt."""
    return synth(tmp_path / "data", tiles=8, seed=1, test_tiles=2)


def first(data: Path, part: str) -> Path:
    return min((data / part).iterdir())


def shorten(data: Path) -> str:
    path = first(data, "train/images")
    path.write_bytes(path.read_bytes()[:60])
    return path.name


def resize_mask(data: Path) -> str:
    path = first(data, "train/masks")
    Image.fromarray(np.zeros((101, 102), np.uint8)).save(path)
    (data / "train.csv").unlink()  # it would disagree too
    return path.name


def grey_mask(data: Path) -> str:
    path = first(data, "train/masks")
    Image.fromarray(np.arange(101 * 101, dtype=np.uint32).reshape(101, 101).astype(np.uint8)).save(path)
    return path.name


def path_in_table(data: Path) -> str:
    table = data / "train.csv"
    table.write_text(table.read_text() + "../../etc/passwd,1 1\n")
    return "train.csv"


def path_in_zip(data: Path) -> str:
    with zipfile.ZipFile(data / "train.zip", "w") as archive:
        for path in (data / "train").rglob("*.png"):
            archive.write(path, path.relative_to(data / "train"))
        archive.writestr("images/../../escaped.png", first(data, "train/images").read_bytes())
    (data / "train").rename(data / "unpacked")
    return "escaped.png"


@pytest.mark.parametrize("verb", ["check", "train"])
@pytest.mark.parametrize("spoil", [shorten, resize_mask, grey_mask, path_in_table, path_in_zip])
def test_a_faulty_file_is_named(saltray: Saltray, data: Path, verb: str, spoil: Callable[[Path], str]) -> None:
    name = spoil(data)
    answer = saltray("check", data) if verb == "check" else saltray("train", "--data", data)
    check_refusal(answer, str(data), name)
    assert any(line.startswith("  ") and name in line for line in answer.err.splitlines())
    assert not list(data.parent.rglob("escaped.png"))


@pytest.mark.parametrize("uri", ["nowhere", "empty", "file", "gs://bucket/tiles", "s3://"])
def test_no_tiles_there(saltray: Saltray, tmp_path: Path, uri: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for answer in (saltray("check", uri), saltray("train", "--data", uri)):
        check_refusal(answer, uri[:5] if "://" in uri else str(tmp_path / uri))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--folds.count 9", ["folds.count is 9", "8 tiles"]),
        ("--folds.count 1", ["folds.count is 1"]),
        ("--gpus-per-worker .5 --workers-per-fold 2", ["gpus_per_worker 0.5 with 2 workers", "one GPU"]),
        ("--gpus-per-worker 2", ["gpus_per_worker is 2"]),
        ("--train.input-size 101", ["input_size is 101", "use 128"]),
        ("--train.batch-size 5 --workers-per-fold 2", ["batch_size 5", "use 6"]),
        ("--run ../r1", ["'../r1'"]),
        ("--store file", ["/file"]),
        ("--store file/store", ["/file/store"]),
    ],
)
def test_train_refuses_before_it_starts(
    saltray: Saltray, data: Path, tmp_path: Path, flags: str, named: list[str]
) -> None:
    (tmp_path / "file").touch()
    check_refusal(saltray("train", "--data", data, *flags.split()), *named)
    assert not list(tmp_path.rglob("runs"))


def test_another_run_of_that_name(saltray: Saltray, data: Path, tmp_path: Path) -> None:
    open_store(str(tmp_path / "s/runs/r1")).put_json(
        "manifest.json", {"identity": "other", "dataset": "other", "config": to_dict(Config(data="other"))}
    )
    check_refusal(saltray("train", "--data", data, "--store", "s"), "run r1", "tiles")


def test_no_bucket_of_that_name(saltray: Saltray, data: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALTRAY_STORE_DEADLINE_S", "1")
    check_refusal(saltray("train", "--data", data, "--store", "s3://no-such-bucket/x"), "no-such-bucket")
    check_refusal(saltray("ensemble", "list", "s3://no-such-bucket/x"), "no-such-bucket")


def test_an_s3_that_does_not_answer(
    saltray: Saltray, data: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SALTRAY_STORE_DEADLINE_S", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    answer = saltray("train", "--data", data, "--store", "s3://bucket/x")
    check_refusal(answer, "s3://bucket/x", "SALTRAY_STORE_DEADLINE_S")


@pytest.mark.ray
def test_more_gpus_than_there_can_be(saltray: Saltray, data: Path) -> None:
    answer = saltray("train", "--data", data, "--folds.count", 2, "--gpus-per-worker", 1, "--workers-per-fold", 32)
    check_refusal(answer, "32 ranks of 1 GPU", "--gpus-per-worker")


@pytest.fixture
def ensemble(tmp_path: Path) -> str:
    """URI of an ensemble that is complete by its manifest; its one member is not there."""
    manifest = Manifest(
        name="e",
        version="v1",
        members=(Member(fold=0, key="fold-0.safetensors", sha256="0" * 64, score=0.7),),
        height=101,
        width=101,
        threshold=0.5,
        score=0.7,
        score_at_threshold=0.7,
        floor=0.4,
        run="e",
        dataset="0" * 64,
        config=to_dict(Config(data="data")),
        provenance=provenance(),
    )
    uri = str(tmp_path / "store/ensembles/e")
    open_store(uri).put_json("v1/manifest.json", manifest.to_json())
    return uri


def test_an_ensemble_that_is_not_there(saltray: Saltray, data: Path, ensemble: str) -> None:
    for uri in ("store/ensembles/none", f"{ensemble}/v2", "nowhere"):
        for verb in ("show", "verify"):
            check_refusal(saltray("ensemble", verb, uri), uri, "saltray ensemble list")
        check_refusal(saltray("predict", "--ensemble", uri, "--data", data), uri, "saltray ensemble list")
    for verb in ("list", "show", "verify"):
        check_refusal(saltray("ensemble", verb, "gs://bucket/ensembles/e"), "gs://")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "members": [7]}'])
def test_a_damaged_manifest(saltray: Saltray, ensemble: str, text: str) -> None:
    Path(ensemble, "v1/manifest.json").write_text(text)
    for verb in ("show", "verify"):
        check_refusal(saltray("ensemble", verb, ensemble), "manifest")


def test_a_member_that_is_gone(saltray: Saltray, ensemble: str) -> None:
    check_refusal(saltray("ensemble", "verify", ensemble), "fold-0.safetensors")
    shown = saltray("ensemble", "list", "store")
    assert shown.code == 0
    assert "v1" in shown.out


def test_predict_has_nothing_to_read_or_nobody_to_work(saltray: Saltray, data: Path, ensemble: str) -> None:
    check_refusal(saltray("predict", "--ensemble", ensemble, "--data", "nowhere"), "/nowhere")
    check_refusal(saltray("predict", "--ensemble", ensemble, "--data", data, "--workers", 0), "workers is 0")


@pytest.mark.ray
def test_predict_cannot_write(saltray: Saltray, data: Path, ensemble: str, tmp_path: Path) -> None:
    from saltray.distributed.runtime import ray_cluster

    (tmp_path / "file").touch()
    with ray_cluster():
        for flags in (["--out", "file/x.csv"], ["--out", "."], ["--masks", "file"], ["--probabilities", "data"]):
            answer = saltray("predict", "--ensemble", ensemble, "--data", data, *flags)
            check_refusal(answer, f"cannot write {flags[1]}: ")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "file", "store"}


def test_unknown_flags_and_verbs(saltray: Saltray) -> None:
    for args in (["check", "x", "--fast"], ["trian"], ["synth"], ["synth", "x", "--tiles", "many"]):
        answer = saltray(*args)
        assert answer.code == 2
        assert "Traceback" not in answer.out + answer.err
        assert args[-1] in answer.err


VERBS = ["", "demo", "synth", "check", "plan", "train", "tune", "run", "status", "predict"]


@pytest.mark.parametrize("verb", [*VERBS, "ensemble", "ensemble list", "ensemble show", "ensemble verify"])
def test_help(saltray: Saltray, verb: str) -> None:
    answer = saltray(*verb.split(), "--help")
    assert answer.code == 0
    assert answer.out.startswith(f"usage: saltray {verb}".rstrip())
    assert answer.err == ""
    assert "Traceback" not in answer.out


def test_an_empty_store_says_what_to_do(saltray: Saltray) -> None:
    answer = saltray("ensemble", "list", "nowhere")
    assert answer == (0, "no ensemble in nowhere yet; `saltray train` publishes one\n", "")


def test_the_command_itself(tmp_path: Path) -> None:
    done = subprocess.run([COMMAND, "check", "none"], cwd=tmp_path, capture_output=True, text=True, check=False)
    check_refusal(Answer(done.returncode, done.stdout, done.stderr), str(tmp_path / "none"))


@pytest.mark.ray
def test_an_interrupted_run_leaves_nothing_behind_and_goes_on(
    start: Callable[..., Live], saltray: Saltray, tmp_path: Path
) -> None:
    data = synth(tmp_path / "data", tiles=12, seed=1, test_tiles=1)
    command = ("train", "--data", data, "--store", tmp_path / "store", *SMALL)
    live = start(*command)
    live.wait_for("fold 0  epoch")
    check_refusal(saltray(*command), "run r1", f"process {live.process.pid} on ")

    fold = open_store(f"{tmp_path}/store/runs/r1/fold-0")
    while not any(entry.key.endswith("/manifest.json") for entry in fold.list("checkpoints")):
        live.wait_for("fold 0  epoch")
    assert live.interrupt(signal.SIGINT) == ("saltray: interrupted; the same command goes on where this one stopped")
    assert live.left() == set()
    kept = epochs(fold)

    live = start(*command)
    line = live.wait_for("fold 0  epoch")
    assert int(line.split("epoch")[1].split("/")[0]) > 1
    assert live.interrupt(signal.SIGTERM).startswith("saltray: interrupted")
    assert live.left() == set()
    history = epochs(fold)
    assert [record["epoch"] for record in history] == list(range(1, len(history) + 1))
    assert history[0] == kept[0]


def epochs(fold: Store) -> list[dict[str, Any]]:
    """The epochs of a fold's history, without its notes."""
    records = [json.loads(line) for line in fold.get("history.jsonl").splitlines()]
    return [record for record in records if "epoch" in record]
