"""Prediction by real Ray Data, and what is left of it where something goes wrong."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ray_session import Recorded, record

import saltray
from saltray.commands.predict import Prediction
from saltray.data.raw import read_tiles
from saltray.data.rle import decode_rle
from saltray.errors import ConfigError, DataError, EnsembleError, SaltrayError
from saltray.progress import PredictionPlanned

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]


@pytest.fixture(scope="module")
def ensemble(finished: Recorded[saltray.TrainResult]) -> str:
    """URI of the finished run's ensemble."""
    return finished.result.ensemble


@pytest.fixture(scope="module")
def predicted(ensemble: str, tiles_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded[Prediction]:
    """The test tiles, with masks and probabilities."""
    out = tmp_path_factory.mktemp("predicted") / "new"
    return record(
        saltray.predict,
        ensemble=ensemble,
        data=str(tiles_folder),
        out=out / "submission.csv",
        masks=out / "masks",
        probabilities=out / "probabilities.parquet",
    )


def test_a_prediction_prints_nothing_and_tells_its_observer(predicted: Recorded[Prediction]) -> None:
    assert predicted.printed == ""  # nor does Ray warn of `ray_remote_args` or of concurrency
    assert predicted.events == [
        PredictionPlanned(tiles=6, ensemble="r1 v1", where="Ray on this machine", workers=1, device="CPU")
    ]


def test_every_tile_is_predicted_as_by_the_ensemble_itself(
    predicted: Recorded[Prediction], ensemble: str, tiles_folder: Path
) -> None:
    out = predicted.result.out.parent
    sample = pd.read_csv(tiles_folder / "sample_submission.csv")
    rows = pd.read_csv(out / "submission.csv", keep_default_na=False)
    assert list(rows.columns) == ["id", "rle_mask"]
    assert list(rows["id"]) == sorted(sample["id"])
    assert (predicted.result.tiles, predicted.result.empty) == (6, (rows["rle_mask"] == "").sum())
    tiles, loaded = read_tiles(str(tiles_folder), part="test"), saltray.Ensemble.load(ensemble)
    expected = loaded.predict(tiles.images)
    table = pd.read_parquet(out / "probabilities.parquet")
    for index, (row, kept) in enumerate(zip(rows.itertuples(), table.itertuples(), strict=True)):
        truth = (expected[index] > loaded.threshold).astype(np.uint8)
        assert row.id == kept.id == tiles.ids[index]
        np.testing.assert_array_equal(decode_rle(row.rle_mask, 101, 101), truth)
        np.testing.assert_array_equal(np.asarray(Image.open(out / f"masks/{row.id}.png")), truth * 255)
        np.testing.assert_allclose(np.frombuffer(kept.probability, np.float16), expected[index].ravel(), atol=1e-3)
    assert sorted(path.name for path in out.iterdir()) == ["masks", "probabilities.parquet", "submission.csv"]


def test_the_fault_of_a_tile_is_told_by_its_name_and_leaves_nothing(
    ensemble: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiles/test/images"
    folder.mkdir(parents=True)
    Image.fromarray(np.ones((101, 102), np.uint8)).save(folder / "wide.png")
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"wide.png has 101x102 pixels, the ensemble was trained on 101x101") as caught:
        saltray.predict(
            ensemble=ensemble, data=str(tmp_path / "tiles"), out=out / "x.csv", probabilities=out / "p.parquet"
        )
    assert "\n" not in str(caught.value)
    assert not list(out.iterdir())
    assert capfd.readouterr() == ("", "")


class FakeStream:
    """Stands in for Ray Data: two batches of one tile each, with `fault` raised between them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        from saltray.distributed import prediction

        self.fault: Exception | None = None
        self.given: dict[str, Any] = {}
        self.batch = prediction.Batch
        patch.setattr(prediction, "stream_predictions", self.stream)

    def stream(self, ensemble: str, data: str, names: list[str], **settings: Any) -> Iterator[Any]:
        self.given = {"ensemble": ensemble, "data": data, "names": names, **settings}
        one = np.full((1, 101, 101), 0.75, np.float16) if settings["keep_probabilities"] else None
        yield self.batch(ids=["a"], rles=["1 2"], probabilities=one)
        if self.fault is not None:
            raise self.fault
        yield self.batch(ids=["b"], rles=[""], probabilities=one)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeStream:
    return FakeStream(monkeypatch)


def test_all_settings_reach_the_workers(fake: FakeStream, ensemble: str, tiles_folder: Path, tmp_path: Path) -> None:
    done = saltray.predict(
        ensemble=ensemble.removesuffix("/v1"), data=str(tiles_folder), out=tmp_path / "x.csv", part="train", tta=False
    )
    assert done == Prediction(tiles=2, empty=1, out=tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_bytes() == b"id,rle_mask\na,1 2\nb,\n"
    assert fake.given["ensemble"] == ensemble
    assert fake.given["shape"] == (101, 101)
    assert len(fake.given["names"]) == 24
    assert {name.rpartition("/")[0] for name in fake.given["names"]} == {"train/images"}
    assert (fake.given["tta"], fake.given["keep_probabilities"]) == (False, False)


def test_an_interrupted_prediction_leaves_what_was_there_before(
    fake: FakeStream, ensemble: str, tiles_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    files = {"out": out / "x.csv", "probabilities": out / "p.parquet", "masks": out / "masks"}
    saltray.predict(ensemble=ensemble, data=str(tiles_folder), **files)  # type: ignore[arg-type]
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert len(before) == 2
    fake.fault = RuntimeError("a worker died")
    with pytest.raises(RuntimeError):
        saltray.predict(ensemble=ensemble, data=str(tiles_folder), **files)  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    "flag", [{"out": "file/x.csv"}, {"out": "folder"}, {"masks": "file"}, {"probabilities": "folder"}]
)
def test_an_output_that_cannot_be_written_is_named(
    fake: FakeStream, flag: dict[str, str], ensemble: str, tiles_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    files: dict[str, Any] = {"out": tmp_path / "x.csv"}
    files |= {name: tmp_path / value for name, value in flag.items()}
    with pytest.raises(ConfigError, match=r"cannot write .*/(file|folder)\S*: .*; (choose another|name a file)"):
        saltray.predict(ensemble=ensemble, data=str(tiles_folder), **files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"workers": 0}, ConfigError, "workers is 0; use 1 or more"),
        ({"ensemble": "nowhere/ensembles/e"}, EnsembleError, "no complete ensemble at nowhere/ensembles/e"),
        ({"data": "nowhere"}, DataError, "nowhere"),
    ],
)
def test_what_cannot_be_predicted_is_refused_before_ray_starts(
    settings: dict[str, Any],
    error: type[SaltrayError],
    named: str,
    ensemble: str,
    tiles_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("saltray.commands.predict.ray_cluster", lambda: pytest.fail("Ray is started"))
    call: Callable[..., Prediction] = saltray.predict
    with pytest.raises(error, match=named):
        call(**{"ensemble": ensemble, "data": str(tiles_folder), "out": tmp_path / "x.csv"} | settings)
    assert not list(tmp_path.iterdir())
