"""The campaign on the CPU: every part runs, is written, and is not repeated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saltray.data.synthetic import write_dataset

CAMPAIGN = Path(__file__).with_name("campaign.py")


def campaign(*words: object, home: Path) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"HOME": str(home)}
    return subprocess.run(
        [sys.executable, str(CAMPAIGN), "--dry", *map(str, words)],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.ray
def test_each_part_runs_and_is_written(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "tiles", tiles=16, seed=1, test_tiles=0)
    out, work = tmp_path / "out", tmp_path / "work"
    ended = campaign("--data", data, "--out", out, "--work", work, home=tmp_path)
    log = (out / "campaign.log").read_text()
    assert ended.returncode == 0, ended.stdout + ended.stderr + log
    parts = json.loads((out / "campaign.json").read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(
        ("tests", "fast", "step", "folds", "predict", "recipes", "mps"), "done"
    )
    assert "passed" in parts["tests"]["note"]
    assert 0 <= parts["fast"]["rows"][0]["score"] <= 1
    assert len(parts["fast"]["curve"]) == 2
    assert {row["batch"] for row in parts["step"]["rows"]} == {2, 4}
    assert all(row["images_per_second"] > 0 for row in parts["step"]["rows"])
    assert [row["way"] for row in parts["folds"]["rows"]] == ["all at once"]
    assert [row["tiles"] for row in parts["predict"]["rows"]] == [12, 8]
    assert [row["recipe"] for row in parts["recipes"]["rows"]] == ["blog"]
    assert {path.name for path in out.iterdir()} == {f"campaign.{kind}" for kind in ("json", "md", "png", "log")}
    assert all(f"\n## {title}" in (out / "campaign.md").read_text() for title in ("the step", "best and blog"))

    again = campaign("--data", data, "--out", out, "--work", work, home=tmp_path)
    assert again.returncode == 0
    assert again.stdout.count("finished before") == 7
    assert (out / "campaign.log").read_text() == log


def test_what_does_not_fit_is_skipped_and_said_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = campaign("--data", "none", "--out", out, "--parts", "tests", "--minutes", "0.1", home=tmp_path)
    part = json.loads((out / "campaign.json").read_text())["parts"]["tests"]
    assert (part["status"], part["rows"]) == ("skipped", [])
    assert "tests: device tests: skipped" in ended.stdout


def test_what_fails_is_recorded_and_the_next_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    # A folder in place of the file for the tests' results makes that part fail.
    (tmp_path / "work/tests.xml").mkdir(parents=True)
    words = ("--data", "none", "--out", out, "--work", tmp_path / "work", "--parts", "tests")
    ended = campaign(*words, home=tmp_path)
    part = json.loads((out / "campaign.json").read_text())["parts"]["tests"]
    assert ended.returncode == 1
    assert part["status"] == "failed"
    assert "Error" in part["note"]
