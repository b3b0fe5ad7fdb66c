"""The campaign on the CPU: every part runs, is written, and is not repeated."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
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


CHILD = """
import os, sys, time
from dataclasses import replace

sys.path.insert(0, {folder!r})
import campaign


def die(options, record):
    record.add(row=1)
    {what}


campaign.PARTS["tests"] = replace(campaign.PARTS["tests"], run=die)
campaign.main()
"""


@pytest.mark.parametrize(
    ("what", "status", "note"),
    [
        ("os._exit(3)", "failed", "its process ended with 3"),
        ("raise ValueError('bad')", "failed", "ValueError: bad"),
        ("time.sleep(1000)", "cut", ""),
    ],
)
def test_what_fails_or_takes_too_long_is_recorded_and_the_next_goes_on(
    what: str, status: str, note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.path.insert(0, str(CAMPAIGN.parent))
    import campaign as module
    from parts import Options

    script = tmp_path / "child.py"
    script.write_text(CHILD.format(folder=str(CAMPAIGN.parent), what=what))
    monkeypatch.setattr(module, "__file__", str(script))
    if status == "cut":
        monkeypatch.setitem(module.PARTS, "tests", replace(module.PARTS["tests"], limit=0))
    options = Options(data="none", work=tmp_path, dry=True, whole=False)
    found = module.Campaign(tmp_path / "out", options, ["tests", "mps"], time.time() + 600)
    assert found.run() == (status != "failed")
    parts = json.loads((tmp_path / "out/campaign.json").read_text())["parts"]
    assert (parts["tests"]["status"], parts["tests"]["note"]) == (status, note)
    assert parts["tests"]["rows"] in ([{"row": 1}], [] if status == "cut" else None)
    assert parts["mps"]["status"] == "done"
