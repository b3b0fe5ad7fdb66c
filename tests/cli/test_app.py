"""The commands as a user runs them: what a wrong one is told, and how an interrupted one ends and resumes."""

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import COMMAND, Answer, Live, Saltray, check_refusal

import saltray as library
from saltray.cli import app
from saltray.cli.signals import Interrupted
from saltray.data.synthetic import write_dataset
from saltray.ensemble.load import MemberCheck
from saltray.errors import ConfigError, DataError, DivergedError, FoldsFailedError, SearchFailedError, StorageError
from saltray.runs.history import epochs_of, read_history
from saltray.storage.uri import open_store

from .conftest import CORRUPTIONS, SMALL, VERBS, Call, results, values, wait_for_checkpoint

INTERRUPTED = "saltray: interrupted; run the same command again to resume"
# They hold no worker and no GPU, and look for a minute or more for the server that was killed before they end too.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


# What is wrong with the data


@pytest.mark.parametrize("verb", ["check", "train"])
@pytest.mark.parametrize("corrupt", CORRUPTIONS)
def test_a_faulty_file_is_named(saltray: Saltray, data: Path, verb: str, corrupt: Callable[[Path], str]) -> None:
    name = corrupt(data)
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


def test_a_data_set_without_faults_is_counted(saltray: Saltray, data: Path) -> None:
    answer = saltray("check", data)
    assert (answer.code, answer.err) == (0, "")
    assert re.search(r"training tiles +8 +\n", answer.out)


# What is wrong with the command


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("train --folds.count 9", ["folds.count is 9", "8 tiles"]),
        ("train --folds.count 1", ["folds.count is 1"]),
        ("train --gpus-per-worker .5 --workers-per-fold 2", ["gpus_per_worker 0.5 with 2 workers", "one GPU"]),
        ("train --gpus-per-worker 2", ["gpus_per_worker is 2"]),
        ("train --train.input-size 101", ["input_size is 101", "use 128"]),
        ("train --train.batch-size 5 --workers-per-fold 2", ["batch_size 5", "use 6"]),
        ("train --run ../r1", ["'../r1'"]),
        ("train --store file", ["/file"]),
        ("train --store file/store", ["/file/store"]),
        ("train --from-search s1", ["names no search"]),
        ("train --from-search searches/", ["names no search"]),
        ("train --from-search searches/s1", ["no search s1", "--search.name s1"]),
        ("tune --search.space optim.lrr=log:1e-5:1e-2", ["optim.lrr", "did you mean optim.lr?"]),
        ("tune --search.space optim.lr=", ["optim.lr", "no values"]),
        ("tune --search.space optim.lr", ["optim.lr", "no '='"]),
        ("tune --search.space optim.lr=1 optim.lr=2", ["optim.lr twice"]),
        ("tune --search.space optim.lr=log:1e-2:1e-5", ["log:0.01:1e-05", "minimum above its maximum"]),
        ("tune --search.space train.batch_size=16,many", ["train.batch_size", "'many' is not an integer"]),
        ("tune --search.space", ["search.space is empty"]),
        ("tune --trials 0", ["search.trials is 0"]),
        ("tune --search.folds", ["names no fold"]),
        ("tune --search.folds 7", ["fold 7", "folds 0 to 4"]),
        ("run --search.folds 7", ["fold 7", "folds 0 to 4"]),
        ("run --search.name ../s", ["'../s'"]),
        ("run --name ../r", ["'../r'"]),
        ("pretrain --pretrain.name ../p", ["'../p'"]),
        ("pretrain --pretrain.hidden 1", ["pretrain.hidden is 1"]),
        ("pretrain --pretrain.patch 101", ["pretrain.hidden 0.6 hides 1 of the 1 patches", "smaller pretrain.patch"]),
        ("pretrain --model.weights nowhere", ["nowhere"]),
        ("pretrain --model.weights here/ensembles/e", ["no complete ensemble at here/ensembles/e"]),
        ("train --model.weights here/ensembles/e", ["no complete ensemble at here/ensembles/e"]),
        ("range-test --fold 9", ["no fold 9", "folds 0 to 4"]),
        ("range-test --steps 1", ["steps is 1"]),
        ("range-test --low 1 --high .1", ["range 1..0.1"]),
        ("range-test --name ../s", ["'../s'"]),
    ],
)
def test_a_command_is_refused_before_it_starts(
    saltray: Saltray, data: Path, tmp_path: Path, words: str, named: list[str]
) -> None:
    (tmp_path / "file").touch()
    verb, *flags = words.split()
    check_refusal(saltray(verb, "--data", data, *flags), *named)
    assert not [*tmp_path.rglob("runs"), *tmp_path.rglob("searches"), *tmp_path.rglob("pretrained")]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("check x --fast", "--fast"),
        ("trian", "trian"),
        ("synth", "PATH"),
        ("synth x --tiles many", "--tiles"),
        ("train --data x --search.seed 1", "--search.seed"),
    ],
)
def test_unknown_flags_and_verbs(saltray: Saltray, words: str, named: str) -> None:
    answer = saltray(*words.split())
    check_refusal(answer, named)
    assert len(answer.err.splitlines()) == 1


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


def test_predict_has_nothing_to_read_or_nobody_to_work(saltray: Saltray, data: Path, ensemble: str) -> None:
    check_refusal(saltray("predict", "--ensemble", ensemble, "--data", "nowhere"), "/nowhere")
    check_refusal(saltray("predict", "--ensemble", ensemble, "--data", data, "--workers", 0), "workers is 0")


def test_predict_cannot_write(saltray: Saltray, data: Path, ensemble: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for flags in (["--out", "file/x.csv"], ["--out", "."], ["--masks", "file"], ["--probabilities", "store"]):
        answer = saltray("predict", "--ensemble", ensemble, "--data", data, *flags)
        check_refusal(answer, flags[1])
    assert {path.name for path in tmp_path.iterdir()} == {"data", "file", "store"}


@pytest.mark.parametrize("uri", ["gs://bucket/x", "http://host/x", "s3:/bucket/x", "S3:x", "~nobody-of-this-name/x"])
@pytest.mark.parametrize(
    "words",
    [
        "synth {uri}",
        "check {uri}",
        "train --data {uri}",
        "train --data data --store {uri}",
        "train --data data --model.weights {uri}",
        "train --config {uri}.toml",
        "tune --data {uri}",
        "tune --data data --store {uri}",
        "run --data data --store {uri}",
        "range-test --data {uri}",
        "range-test --data data --store {uri}",
        "plan --data {uri}",
        "plan --data data --store {uri}",
        "plan --data data --on {uri}",
        "status --store {uri}",
        "status --run r1 --store {uri}",
        "compare {uri} r1",
        "compare r1 r2 --store {uri}",
        "report {uri}",
        "predict --ensemble {uri} --data data",
        "predict --ensemble {ensemble} --data {uri}",
        "predict --ensemble {ensemble} --data data --out {uri}",
        "predict --ensemble {ensemble} --data data --masks {uri}",
        "predict --ensemble {ensemble} --data data --probabilities {uri}",
        "ensemble list {uri}",
        "ensemble show {uri}",
        "ensemble verify {uri}",
    ],
)
def test_what_is_no_path_is_refused_wherever_a_path_is_taken(
    words: str, uri: str, saltray: Saltray, data: Path, ensemble: str, tmp_path: Path
) -> None:
    before = set(tmp_path.rglob("*"))
    answer = saltray(*words.format(uri=uri, ensemble=ensemble).split())
    check_refusal(answer, uri.partition(":")[0] if ":" in uri else uri)
    made = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - before}
    assert made <= {"saltray-store"} - ({"saltray-store"} if "--store" in words else set())
    assert not [*tmp_path.rglob("runs"), *tmp_path.rglob("searches")]


# How a command ends


def raises(error: BaseException) -> Callable[..., Any]:
    def call(*args: object, **rest: object) -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (DataError("2 faults", ("a.png: [small]", "b.png: large")), 2, ["  a.png: [small]", "  b.png: large"]),
        (FoldsFailedError("1 of 5 folds failed", {3: "out of memory"}), 1, []),
        (SearchFailedError("none has a score", {"trial-000": "NaN"}), 1, ["  trial-000: NaN"]),
        (KeyboardInterrupt(), 130, [""]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_line_below_its_details(
    saltray: Saltray, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, lines: list[str]
) -> None:
    monkeypatch.setattr(library, "check", raises(error), raising=False)
    answer = saltray("check", "x")
    # A check has nothing to resume.
    last = "saltray: interrupted" if isinstance(error, KeyboardInterrupt) else f"saltray: {error}"
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.splitlines() == [*lines, last]


CALLED = {
    "demo": "demo",
    "synth x": "synth",
    "check x": "check",
    "train --data d": "train",
    "pretrain --data d": "pretrain",
    "tune --data d": "tune",
    "range-test --data d": "range_test",
    "run --data d": "run",
    "plan --data d": "plan",
    "status": "list_runs",
    "status --run r1": "status",
    "compare r1 r2": "compare",
    "report s": "write_report",
    "predict --ensemble e --data d": "predict",
    "serve --ensemble e": "serve",
    "export e": "export",
    "ensemble list": "list_ensembles",
    "ensemble show e": "Ensemble.card",
    "ensemble verify e": "Ensemble.verify",
    "config show": "config_toml",
    "config diff a b": "config_diff",
    "config schema": "config_schema",
}
"""What each verb calls of the library."""


def test_the_exit_codes_of_no_verb_are_left_out() -> None:
    assert {app.verb_of(words.split()) for words in CALLED} == set(app.VERBS)


@pytest.mark.parametrize(("words", "name"), CALLED.items())
def test_exit_codes(saltray: Saltray, monkeypatch: pytest.MonkeyPatch, words: str, name: str) -> None:
    """2: the user can fix it. 1: training went wrong. 130 and 129: a signal."""
    kind, _, method = name.rpartition(".")
    owner = getattr(library, kind) if kind else library
    for error, code in (
        (ConfigError("x is 1; use 2"), 2),
        (StorageError("no answer; check the network"), 2),
        (SearchFailedError("none has a score", {}), 1),
        (DivergedError("the loss became NaN; lower the rate"), 1),
        (KeyboardInterrupt(), 130),
        (Interrupted(129), 129),
    ):
        monkeypatch.setattr(owner, method, raises(error), raising=False)
        answer = saltray(*words.split())
        assert (answer.code, answer.out) == (code, ""), error
        resumes = words.split(maxsplit=1)[0] in app.RESUMES and code > 2
        assert ("run the same command again to resume" in answer.err) == resumes
        assert answer.err.splitlines()[-1].startswith("saltray: ")
    assert saltray(*words.split(), "--help").code == 0
    assert saltray(*words.split(), "--no-such-flag").code == 2


ANSWERS: dict[str, object] = {
    "list_ensembles": [],
    "Ensemble.card": "# e",
    "Ensemble.verify": (MemberCheck("fold-0.safetensors", None),),
    "config_toml": "",
    "config_diff": [],
    "config_schema": {},
}
"""What of the library is printed without a table; of the others `calls` has stand-ins, or nothing is used."""


@pytest.mark.parametrize(("words", "name"), CALLED.items())
def test_the_exit_code_of_success(
    saltray: Saltray, calls: list[Call], monkeypatch: pytest.MonkeyPatch, words: str, name: str
) -> None:
    kind, _, method = name.rpartition(".")
    owner = getattr(library, kind) if kind else library
    called: list[str] = []
    before = getattr(owner, method)

    def call(*args: object, **rest: object) -> object:
        called.append(name)
        return ANSWERS[name] if name in ANSWERS else before(*args, **rest) if name in VERBS else None

    monkeypatch.setattr(owner, method, call, raising=False)
    answer = saltray(*words.split())
    assert (answer.code, answer.err, called) == (0, "", [name])


def test_an_impossible_price_is_the_users_to_fix(saltray: Saltray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "plan", lambda *args, **rest: None, raising=False)
    check_refusal(saltray("plan", "--data", "d", "--price", -1), "price is -1.0; use 0 or more")


RAY_VERBS = {"demo", "train", "pretrain", "tune", "range-test", "run", "predict", "serve"}


@pytest.mark.parametrize("words", [words for words in CALLED if app.verb_of(words.split()) in RAY_VERBS])
def test_what_ray_prints_is_shown_if_asked_for(saltray: Saltray, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    logger = logging.getLogger("saltray")
    before = logger.level
    monkeypatch.setattr(library, CALLED[words], raises(KeyboardInterrupt()), raising=False)
    try:
        for flags, level in ((), before), (("--verbose",), logging.DEBUG):
            assert saltray(*words.split(), *flags).code == 130
            assert logger.level == level
    finally:
        logger.setLevel(before)


def test_of_many_faults_the_first_are_shown(saltray: Saltray, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = tuple(f"{number}.png: small" for number in range(app.PROBLEMS_SHOWN + 7))
    monkeypatch.setattr(library, "check", raises(DataError("many", problems)), raising=False)
    lines = saltray("check", "x").err.splitlines()
    assert len(lines) == app.PROBLEMS_SHOWN + 2
    assert lines[-2:] == ["  and 7 more", "saltray: many"]


def test_the_command_itself(tmp_path: Path) -> None:
    done = run(COMMAND, "check", "none", folder=tmp_path)
    check_refusal(Answer(done.returncode, done.stdout, done.stderr), str(tmp_path / "none"))


@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_letters_that_the_output_lacks_end_no_command(
    locale: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**locale, "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    write_dataset(tmp_path / "t\u00efles", tiles=4, seed=1)
    for name, code in (("t\u00efles", 0), ("n\u00f6", 2)):  # a table, and a refusal
        done = run(COMMAND, "check", name, folder=tmp_path)
        assert "Traceback" not in done.stderr
        assert done.returncode == code


@pytest.mark.parametrize("words", [["ensemble", "list", "nowhere"], ["--help"]])
def test_nobody_reads_the_output_to_its_end(tmp_path: Path, words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run(COMMAND, *words, folder=tmp_path, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_row_stays_whole_in_a_log_file(ensemble: str, tmp_path: Path) -> None:
    name = "a-name-of-many-words-" * 4 + "e"
    Path(ensemble).rename(Path(ensemble).with_name(name))
    done = run(COMMAND, "ensemble", "list", "store", folder=tmp_path)
    assert re.search(rf"\n│ {name} │ v1 +│ 1 +│ +│ 0.7000 │ [^│]+│ e +│\n", done.stdout)


def test_a_home_that_cannot_be_written_is_not_complained_of(tmp_path: Path) -> None:
    for name in (".cache", ".config"):
        (tmp_path / name).touch()  # where matplotlib wants folders
    (tmp_path / "store").mkdir()
    code = "from saltray.cli.app import main; main(); import saltray.report.examples"
    done = run(sys.executable, "-c", code, "ensemble", "list", "store", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def run(*command: str, folder: Path, stdout: int = subprocess.PIPE) -> "subprocess.CompletedProcess[str]":
    """A process in a folder that is its home."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"HOME": str(folder)}
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=600
    )


# With Ray


@pytest.mark.ray
def test_more_gpus_than_there_can_be(saltray: Saltray, ray_here: None, data: Path) -> None:
    answer = saltray("train", "--data", data, "--folds.count", 2, "--gpus-per-worker", 1, "--workers-per-fold", 32)
    check_refusal(answer, "32 ranks of 1 GPU", "--gpus-per-worker")


@pytest.mark.ray
def test_a_search_that_fails_ends_in_one_line(saltray: Saltray, ray_here: None, data: Path) -> None:
    answer = saltray("tune", "--data", data, *SMALL, "--search.epochs", 3, "--search.space", "optim.lr=1e30")
    assert answer.code == 1
    assert "Traceback" not in answer.out + answer.err
    details, last = answer.err.splitlines()
    assert details.startswith("  trial-000: the ")
    assert re.fullmatch(r"saltray: none of 1 trials .* trial-000: the .* became NaN.*", last)


@pytest.mark.ray
def test_interrupted_training_leaves_no_process_and_resumes(
    start: Callable[..., Live], saltray: Saltray, data: Path, tmp_path: Path
) -> None:
    command = ("train", "--data", data, "--store", tmp_path / "store", *SMALL, "--train.epochs", 1000)
    fold = open_store(f"{tmp_path}/store/runs/r1/fold-0")
    live = start(*command)
    live.wait_for("fold 0  epoch")
    check_refusal(saltray(*command), "run r1", f"process {live.process.pid} on ")
    wait_for_checkpoint(fold)
    assert live.interrupt(signal.SIGINT) == INTERRUPTED
    assert Path(live.wait_for("Ray logs  ").split()[-1]).is_dir()
    assert live.left() == set()
    kept = epochs_of(read_history(fold))

    live = start(*command)
    resumed = int(live.wait_for("fold 0  resumes after epoch ").split("epoch ")[1].split(",")[0])
    assert 1 <= resumed < 1000
    assert f"epoch {resumed + 1:>3}/1000" in live.wait_for("fold 0  epoch")
    assert live.interrupt(signal.SIGTERM) == INTERRUPTED  # what `ray job stop` sends
    assert live.left() == set()
    history = epochs_of(read_history(fold))
    assert [record.epoch for record in history] == list(range(1, len(history) + 1))
    both = min(resumed, len(kept))  # what follows was trained anew
    assert history[:both] == kept[:both]


@pytest.mark.ray
def test_an_interrupted_and_a_killed_search_resume(
    start: Callable[..., Live], saltray: Saltray, ray_here: None, data: Path, tmp_path: Path
) -> None:
    rates = "optim.lr=1e-3,2e-3,3e-3,4e-3"
    command = ("tune", "--data", data, "--store", tmp_path / "store", *SMALL, "--train.epochs", 40)
    command = (*command, "--search.no-prune", "--search.concurrent", 2, "--search.space", rates)
    search = open_store(f"{tmp_path}/store/searches/s1")

    live = start(*command)
    live.wait_for("search s1:")  # before Ray is up: the trials start after this
    check_refusal(saltray(*command), "search s1", f"process {live.process.pid} on ")
    live.wait_for("  epoch ")
    wait_for_checkpoint(search)
    started = values(search)
    assert live.interrupt(signal.SIGINT) == INTERRUPTED
    assert live.left() == set()

    live = start(*command)
    live.wait_for("(from epoch ")
    live.wait_for("finished after epoch 40")
    live.wait_for("  epoch ")
    live.kill()
    assert live.left(*AGENTS) == set()
    kept = {name: text for name, text in results(search).items() if text is not None}
    started |= values(search)
    assert 1 <= len(kept) < 4

    done = saltray(*command)
    assert (done.code, done.err) == (0, "")
    assert f"took over the stale lock of process {live.process.pid} on " in done.out
    assert not set(re.findall(r"(trial-\d+)  epoch", done.out)) & set(kept)
    now = results(search)
    assert list(now) == ["trial-000", "trial-001", "trial-002", "trial-003"]
    assert now | kept == now
    assert values(search) | started == values(search)
    assert all(search.get_json(f"{name}/result.json")["status"] == "finished" for name in now)
    assert search.get_json("best.json")["trial"] in now


@pytest.mark.parametrize("verb", ["train", "run"])
def test_mlflow_that_is_asked_for_and_not_installed_is_refused_before_anything(
    saltray: Saltray, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr("saltray.runs.tracking.find_spec", lambda name: None)
    answer = saltray(verb, "--data", tmp_path / "none", "--store", tmp_path / "store")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("saltray: MLFLOW_TRACKING_URI is set, but MLflow is not installed; `pip install ")
    assert not [*(tmp_path / "store").rglob("*.json")]
