"""The demo from tiles to picture, with a run that is shorter than its own."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from ray_session import record

import saltray
from saltray.commands import demo as module
from saltray.config import Config, FoldConfig
from saltray.errors import ConfigError, StorageError
from saltray.progress import FoldsFinishedBefore, TilesWritten

TILES = 16


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_the_demo_trains_predicts_and_draws_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo_config = module.demo_config

    def short(data: str, store: str, run: str) -> Config:
        config = demo_config(data, store, run)
        return replace(config, folds=FoldConfig(count=2), train=replace(config.train, epochs=1))

    monkeypatch.setattr(module, "demo_config", short)
    folder, picture = tmp_path / "demo", tmp_path / "demo.png"
    first = record(saltray.demo, folder, picture=picture, tiles=TILES)
    assert first.printed == ""  # nor does Ray warn of `ray_remote_args` or of concurrency
    assert first.events[0] == TilesWritten(TILES, str(folder / f"tiles-{TILES}"))
    told = [kind for kind in first.kinds if not kind.startswith("Fold")]
    assert list(dict.fromkeys(told)) == [
        "TilesWritten",
        "RunPlanned",
        "CapacityFound",
        "Published",
        "PredictionPlanned",
        "TilesPredicted",
    ]
    assert first.result.train.ensemble == f"{folder}/store/ensembles/demo-{TILES}/v1"
    assert first.result.picture == str(picture)
    with Image.open(picture) as image:
        assert image.width > 500
    submission = Path(first.result.prediction.out).read_text().splitlines()
    assert submission[0] == "id,rle_mask"
    assert len(submission) == 1 + first.result.prediction.tiles == 1 + TILES // 4

    picture.unlink()
    monkeypatch.setattr(module, "predict", lambda **settings: first.result.prediction)  # which takes its time
    again = record(saltray.demo, folder, picture=picture, tiles=TILES)
    assert again.kinds == ["RunPlanned", "FoldsFinishedBefore", "Published"]
    assert again.of(FoldsFinishedBefore) == [FoldsFinishedBefore((0, 1))]
    assert again.result.train == first.result.train
    assert picture.exists()


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"picture": "file/demo.png"}, "cannot write file/demo.png: .*; move it, or choose another folder"),
        ({"picture": "."}, "does not name a file"),
        ({"picture": "gs://bucket/demo.png"}, "'gs://' is unsupported"),
        ({"folder": "s3://bucket/demo"}, "s3://bucket/demo is not on this machine; use a path"),
        ({"folder": "s3:/bucket/demo"}, "s3:... is neither a path nor a URI"),
    ],
)
def test_what_cannot_be_written_is_refused_first(
    settings: dict[str, str], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises((ConfigError, StorageError), match=fault):
        saltray.demo(**{"folder": "demo", "picture": "demo.png"} | settings)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("settings", [{"folder": "demo", "picture": "/tmp/x.png"}, {"folder": "/tmp/x"}])
def test_what_would_be_lost_with_a_job_is_refused_first(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError, match=r"the (folder demo|picture demo.png) is in the working directory"):
        saltray.demo(**settings)
    assert not list(tmp_path.iterdir())


def test_the_demos_own_run_is_short_and_learns_on_a_laptop() -> None:
    config = module.demo_config("tiles", "store", "demo-240")
    assert (config.data, config.store, config.run) == ("tiles", "store", "demo-240")
    assert (config.folds.count, config.train.epochs, config.train.precision) == (5, 8, "fp32")
