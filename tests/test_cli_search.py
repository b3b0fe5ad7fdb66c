"""`saltray tune` and `run`: what a wrong command is told, how a search that was broken off goes on, and the README."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep

import pytest
from command import Live, Saltray, check_refusal

from saltray.data.synthetic import synth
from saltray.storage.base import Store
from saltray.storage.names import open_store

README = Path(__file__).resolve().parents[1] / "README.md"
SMALL = (
    *("--model.num-filters", "4", "--model.encoder-width", "8", "--train.epochs", "30", "--train.batch-size", "4"),
    *("--train.precision", "fp32", "--train.checkpoint-every", "0", "--folds.count", "2"),
)

# They hold no worker and no GPU, and look for a minute or more for the server that was killed before they end too.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--search optim.lrr=log:1e-5:1e-2", ["optim.lrr", "did you mean optim.lr?"]),
        ("--search optim.lr=", ["optim.lr", "no values"]),
        ("--search optim.lr=log:1e-3:1e-3", ["optim.lr", "is empty"]),
        ("--search optim.lr=log:1e-2:1e-5", ["log:0.01:1e-05", "minimum above its maximum"]),
        ("--search optim.lr=log:0:1e-2", ["optim.lr", "the logarithm of 0"]),
        ("--search train.batch_size=16,many", ["train.batch_size", "'many' is no whole number"]),
        ("--trials 0", ["trials is 0"]),
        ("--folds 7", ["no fold 7", "folds 0 to 4"]),
        ("--folds", ["no fold is named"]),
        ("--search-name ../s", ["'../s'"]),
        ("--concurrent 0", ["concurrent is 0"]),
        ("--range-test --search optim.lr=1", ["--range-test", "--search"]),
        ("--range-test --folds 9", ["no fold 9"]),
    ],
)
def test_a_wrong_search_is_refused_before_it_starts(
    saltray: Saltray, tmp_path: Path, flags: str, named: list[str]
) -> None:
    check_refusal(saltray("tune", "--data", "d", *flags.split()), *named)
    if "range-test" not in flags:
        check_refusal(saltray("run", "--data", "d", *flags.split()), *named)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "named"),
    [("s1", "names no search"), ("searches/", "names no search"), ("searches/s1", "no best.json")],
)
def test_a_search_that_is_not_there(saltray: Saltray, tmp_path: Path, source: str, named: str) -> None:
    check_refusal(saltray("train", "--data", "d", "--lr-from", source), named)


@pytest.mark.ray
def test_a_search_that_fails_ends_in_one_line(saltray: Saltray, tmp_path: Path) -> None:
    data = synth(tmp_path / "data", tiles=8, seed=1, test_tiles=1)
    answer = saltray("tune", "--data", data, *SMALL, "--search", "optim.lr=1e30")
    assert answer.code == 1
    assert "Traceback" not in answer.out + answer.err
    assert re.fullmatch(r"saltray: none of 1 trials .* trial-000: the validation loss became NaN.*\n", answer.err)


@pytest.mark.ray
def test_an_interrupted_and_a_killed_search_go_on(start: Callable[..., Live], saltray: Saltray, tmp_path: Path) -> None:
    data = synth(tmp_path / "data", tiles=12, seed=1, test_tiles=1)
    rates = "optim.lr=1e-3,2e-3,3e-3,4e-3"
    command = ("tune", "--data", data, "--store", tmp_path / "store", *SMALL, "--search", rates, "--no-prune")
    search = open_store(f"{tmp_path}/store/searches/s1")

    live = start(*command)
    live.wait_for("search s1:")  # before Ray is up: the trials begin after this
    check_refusal(saltray(*command), "search s1", f"process {live.process.pid} on ")
    live.wait_for("  epoch ")
    wait_for_checkpoint(search)
    begun = values(search)
    assert live.interrupt(signal.SIGINT) == "saltray: interrupted; the same command goes on where this one stopped"
    assert live.left() == set()

    live = start(*command)
    live.wait_for("(from epoch ")
    live.wait_for("finished after epoch 30")
    live.wait_for("  epoch ")
    live.kill()
    assert live.left(*AGENTS) == set()
    kept = {name: text for name, text in results(search).items() if text is not None}
    begun |= values(search)
    assert 1 <= len(kept) < 4

    done = saltray(*command)
    assert (done.code, done.err) == (0, "")
    assert f"took over the lock of process {live.process.pid}" in done.out
    assert not set(re.findall(r"(trial-\d+)  epoch", done.out)) & set(kept)
    now = results(search)
    assert list(now) == ["trial-000", "trial-001", "trial-002", "trial-003"]
    assert now | kept == now
    assert values(search) | begun == values(search)
    assert all(search.get_json(f"{name}/result.json")["status"] == "finished" for name in now)
    assert search.get_json("best.json")["trial"] in now


def wait_for_checkpoint(search: Store) -> None:
    for _ in range(600):
        if any(entry.key.endswith("/manifest.json") for entry in search.list("") if "/checkpoints/" in entry.key):
            return
        sleep(0.05)
    pytest.fail("no trial wrote a checkpoint")


def values(search: Store) -> dict[str, bytes]:
    return {name: search.get(f"{name}/trial.json") for name in search.folders() if name.startswith("trial-")}


def results(search: Store) -> dict[str, bytes | None]:
    """What is written of each trial that has ended."""
    names = [name for name in search.folders() if name.startswith("trial-")]
    return {n: search.get(f"{n}/result.json") if search.exists(f"{n}/result.json") else None for n in names}


@pytest.mark.ray
def test_the_driver_script_of_the_readme(tmp_path: Path) -> None:
    (script,) = re.findall(r"```python\n(# tune\.py\n.*?)```", README.read_text(), re.DOTALL)
    synth(tmp_path / "tiles", tiles=12, seed=1, test_tiles=1)
    # As it stands there, but for a data set, a network and a length that suit a test.
    for written, small in (
        ("s3://bucket/tiles", "tiles"),
        ("s3://bucket/salt", "store"),
        ("epochs=20", "epochs=1"),
        ("trials=16", "trials=2"),
        ("saltray.Config(", "saltray.Config(model=saltray.ModelConfig(num_filters=4, encoder_width=8), "),
    ):
        assert written in script
        script = script.replace(written, small)
    (tmp_path / "tune.py").write_text(script)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "tune.py"],
        cwd=tmp_path,
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"trial-000 +finished", done.stdout)
    assert re.search(r"store/ensembles/\w+/v1", done.stdout.splitlines()[-1])
