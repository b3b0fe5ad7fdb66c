"""Prediction by real actors of Ray; and in this process, what is refused first and what is left where it goes wrong."""

import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ray_session import Recorded, record

import saltray
import saltray.data.source
from saltray.commands import predict as module
from saltray.commands.predict import Prediction
from saltray.data.archive import Archive
from saltray.data.pixel_range import PixelRange
from saltray.data.raw import read_tiles
from saltray.data.rle import decode_rle
from saltray.data.tile_reader import TileReader
from saltray.ensemble.versions import read_manifest, resolve
from saltray.errors import (
    ConfigError,
    DataError,
    EnsembleError,
    NotFoundError,
    ResourceError,
    SaltrayError,
    StorageError,
)
from saltray.progress import Event, PredictionPlanned, TilesClipped, TilesPredicted
from saltray.storage.base import Store
from saltray.storage.uri import open_store
from saltray.training.metrics import TileCounts

BYTES = PixelRange(bits=8, maximum=255)


@pytest.fixture(scope="module")
def trained(finished: Recorded[saltray.TrainResult]) -> str:
    """URI of the finished run's ensemble."""
    return finished.result.ensemble


@pytest.fixture(scope="module")
def predicted(trained: str, tiles_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded[Prediction]:
    """The test tiles, with masks and probabilities."""
    out = tmp_path_factory.mktemp("predicted") / "new"
    return record(
        saltray.predict,
        ensemble=trained,
        data=str(tiles_folder),
        out=out / "submission.csv",
        masks=out / "masks",
        probabilities=out / "probabilities.parquet",
    )


@pytest.mark.ray
def test_a_prediction_prints_nothing_and_tells_its_observer(predicted: Recorded[Prediction]) -> None:
    assert predicted.printed == ""  # nor does Ray warn of `ray_remote_args` or of concurrency
    assert predicted.events == [
        PredictionPlanned(tiles=6, ensemble="r1 v1", where="Ray on this machine", workers=1, device="CPU"),
        TilesPredicted(6, 6),  # a single batch
    ]


@pytest.mark.ray
def test_every_tile_is_predicted_as_by_the_ensemble_itself(
    predicted: Recorded[Prediction], trained: str, tiles_folder: Path
) -> None:
    out = Path(predicted.result.out).parent
    sample = pd.read_csv(tiles_folder / "sample_submission.csv")
    rows = pd.read_csv(out / "submission.csv", keep_default_na=False)
    assert list(rows.columns) == ["id", "rle_mask"]
    assert list(rows["id"]) == sorted(sample["id"])
    assert (predicted.result.tiles, predicted.result.empty) == (6, (rows["rle_mask"] == "").sum())
    tiles, loaded = read_tiles(str(tiles_folder), part="test"), saltray.Ensemble.load(trained)
    expected, masks = loaded.predict(tiles.images), loaded.predict_masks(tiles.images)
    table = pd.read_parquet(out / "probabilities.parquet")
    for index, (row, kept) in enumerate(zip(rows.itertuples(), table.itertuples(), strict=True)):
        truth = masks[index].astype(np.uint8)
        assert row.id == kept.id == tiles.ids[index]
        np.testing.assert_array_equal(decode_rle(row.rle_mask, 101, 101), truth)
        np.testing.assert_array_equal(np.asarray(Image.open(out / f"masks/{row.id}.png")), truth * 255)
        np.testing.assert_allclose(np.frombuffer(kept.probability, np.float16), expected[index].ravel(), atol=1e-3)
    assert sorted(path.name for path in out.iterdir()) == ["masks", "probabilities.parquet", "submission.csv"]


class Stream:
    """Stands in for Ray: what its workers do, done in this process, with `fault` raised after the first tile."""

    def __init__(self) -> None:
        self.fault: BaseException | None = None
        self.given: dict[str, Any] = {}
        self.seen: list[str] = []

    def check_seen(self, uri: str, read: Callable[[], object]) -> None:
        read()
        self.seen.append(uri)

    def __call__(self, ensemble: str, reader: TileReader, names: list[str], **settings: Any) -> Iterator[Any]:
        from saltray.distributed import prediction

        self.given = {"ensemble": ensemble, "reader": reader, "names": names, **settings}
        worker = prediction.Worker(ensemble, reader, "cpu", 1, settings["tta"], settings["keep_probabilities"])
        for name in names:
            batch = worker.predict([name])
            assert isinstance(batch, prediction.Batch)
            yield batch
            if self.fault is not None:
                raise self.fault


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """Ray is not started, and what its workers do is done here."""
    from saltray.distributed import prediction

    stream = Stream()
    monkeypatch.setattr(module, "ray_cluster", lambda **_: nullcontext("Ray on this machine"))
    monkeypatch.setattr(module, "check_seen", stream.check_seen)
    monkeypatch.setattr(prediction, "choose_workers", lambda *asked: prediction.PredictionWorkers(1, "CPU"))
    monkeypatch.setattr(prediction, "stream_predictions", stream)
    return stream


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The work must not begin, and nothing may appear in the current folder, which is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "ray_cluster", lambda **_: pytest.fail("Ray is started"))
    before = set(tmp_path.rglob("*"))
    yield
    assert {path for path in tmp_path.rglob("*") if "data" not in path.parts} == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def targets(where: str | Path) -> dict[str, str]:
    return {"out": f"{where}/x.csv", "masks": f"{where}/masks", "probabilities": f"{where}/p.parquet"}


def test_all_settings_reach_the_workers(
    stream: Stream, untrained: str, tiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    monkeypatch.setattr(module, "TELL_S", 3600)
    done = saltray.predict(
        ensemble=untrained.removesuffix("/v1"),
        data=str(tiles_folder),
        out=tmp_path / "x.csv",
        part="train",
        tta=False,
        observer=events.append,
    )
    assert events.pop() == TilesPredicted(24, 24)
    rows = (tmp_path / "x.csv").read_text().splitlines()
    assert rows[0] == "id,rle_mask"
    empty = sum(row.endswith(",") for row in rows)
    assert (done.tiles, done.empty, done.out) == (24, empty, str(tmp_path / "x.csv"))
    assert events == [
        PredictionPlanned(tiles=24, ensemble="r1 v1", where="Ray on this machine", workers=1, device="CPU")
    ]
    assert stream.given["ensemble"] == untrained
    assert stream.seen == [untrained, str(tiles_folder)]
    assert stream.given["reader"] == TileReader(uri=str(tiles_folder), height=101, width=101, scale=BYTES)
    assert len(stream.given["names"]) == 24
    assert {name.rpartition("/")[0] for name in stream.given["names"]} == {"train/images"}
    assert (stream.given["tta"], stream.given["keep_probabilities"]) == (False, False)


def test_progress_is_told_after_each_pause(
    stream: Stream, untrained: str, tiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TELL_S", 0)
    events: list[Event] = []
    settings: dict[str, Any] = {"ensemble": untrained, "data": str(tiles_folder), "out": tmp_path / "x.csv"}
    saltray.predict(**settings, tta=False, observer=events.append)
    assert events[1:] == [TilesPredicted(done, 6) for done in range(1, 7)]


def test_outputs_in_s3_are_those_in_a_folder(
    stream: Stream, untrained: str, tiles_folder: Path, s3_uri: Callable[[], str], tmp_path: Path
) -> None:
    uri = s3_uri()
    for where in (str(tmp_path), uri, uri):  # the last replaces the one before
        saltray.predict(ensemble=untrained, data=str(tiles_folder), **targets(where))
    store = open_store(uri)
    assert len(list(store.list("masks"))) == 6
    assert {entry.key: store.get(entry.key) for entry in store.list()} == contents(tmp_path)


@pytest.mark.parametrize("fault", [DataError("a tile has vanished"), KeyboardInterrupt()])
def test_what_fails_leaves_what_was_there_before(
    fault: BaseException,
    stream: Stream,
    untrained: str,
    tiles_folder: Path,
    s3_uri: Callable[[], str],
    tmp_path: Path,
) -> None:
    uri = s3_uri()
    store = open_store(uri)
    for earlier in (False, True):
        stream.fault = None
        if earlier:
            for where in (f"{tmp_path}/out", uri):
                saltray.predict(ensemble=untrained, data=str(tiles_folder), tta=False, **targets(where))
        before = contents(tmp_path)
        stream.fault = fault
        for where in (f"{tmp_path}/out", uri):
            with pytest.raises(type(fault)):
                saltray.predict(ensemble=untrained, data=str(tiles_folder), part="train", **targets(where))
        assert contents(tmp_path) == before
        assert (tmp_path / "out").exists() == earlier
        assert {entry.key: store.get(entry.key) for entry in store.list()} == contents(tmp_path / "out")


def test_a_tile_that_vanishes_is_named(stream: Stream, untrained: str, tiles: Path, tmp_path: Path) -> None:
    class Vanishing(Stream):
        def __call__(self, ensemble: str, reader: TileReader, names: list[str], **settings: Any) -> Iterator[Any]:
            (tiles / names[3]).unlink()
            fault = prediction.Worker(ensemble, reader, "cpu", 1, False, False).predict(names)
            assert isinstance(fault, SaltrayError)
            raise fault

    from saltray.distributed import prediction

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "stream_predictions", Vanishing())
        with pytest.raises(NotFoundError, match=r"test/images/\w+\.png: there is no such object"):
            saltray.predict(ensemble=untrained, data=str(tiles), out=tmp_path / "x.csv")
    assert not list(tmp_path.glob("*x.csv*"))


@pytest.fixture
def tiles(tiles_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiles that a test may change."""
    return Path(shutil.copytree(tiles_folder, tmp_path / "data"))


def test_a_full_disk_ends_in_one_line(
    stream: Stream, untrained: str, tiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for which, limit in (("out", 10), ("probabilities", 20_000), ("masks", 60)):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            uris = {"out": tmp_path / "out", which: tmp_path / which}
            with pytest.raises(StorageError, match=f"cannot write {tmp_path}/{which}: .*(File too large|write)"):
                saltray.predict(ensemble=untrained, data=str(tiles_folder), **uris)  # type: ignore[arg-type]
            assert not list(tmp_path.iterdir())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    "flag", [{"out": "file/x.csv"}, {"out": "folder"}, {"masks": "file"}, {"probabilities": "folder"}]
)
def test_an_output_that_cannot_be_written_is_named_before_the_work(
    flag: dict[str, str], untrained: str, tiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ray_cluster", lambda **_: pytest.fail("Ray is started"))
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    files: dict[str, Any] = {"out": tmp_path / "x.csv"}
    files |= {name: tmp_path / value for name, value in flag.items()}
    with pytest.raises((ConfigError, StorageError), match=r"cannot write .*/(file|folder)\S*: .*; (move it|name a)"):
        saltray.predict(ensemble=untrained, data=str(tiles_folder), **files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"workers": 0}, ConfigError, "workers is 0; use 1 or more"),
        ({"ensemble": "nowhere/ensembles/e"}, EnsembleError, "no complete ensemble at nowhere/ensembles/e"),
        ({"ensemble": "gs://bucket/ensembles/e"}, ConfigError, "'gs://' is unsupported"),
        ({"data": "nowhere"}, DataError, "nowhere"),
        ({"data": "http://host/tiles"}, ConfigError, "'http://' is unsupported"),
        ({"data": "s3:/bucket/tiles"}, ConfigError, "s3:... is neither a path nor a URI"),
        ({"out": "gs://bucket/x.csv"}, ConfigError, "'gs://' is unsupported"),
        ({"masks": Path("s3://bucket/masks")}, ConfigError, "s3:... is neither a path nor a URI"),
        ({"probabilities": "s3://bucket"}, ConfigError, "'s3://bucket' does not name a file"),
        ({"out": "deeper/"}, ConfigError, "'deeper/' does not name a file"),
        ({"probabilities": "x.csv"}, ConfigError, "--out x.csv and --probabilities x.csv overlap"),
        ({"masks": "."}, ConfigError, "--out x.csv and --masks . overlap"),
        ({"out": "{data}/train.csv"}, ConfigError, "--out .*/train.csv would replace files of the data set"),
        ({"probabilities": "{data}/sample_submission.csv"}, ConfigError, "would replace files of the data set"),
        ({"masks": "{data}/test/images"}, ConfigError, "--masks .* would replace files of the data set"),
        ({"masks": "{data}/train/../train/masks/"}, ConfigError, "--masks .* would replace files of the data set"),
        ({"part": "train", "masks": "{data}/train/images"}, ConfigError, "would replace files of the data set"),
        ({"out": "{ensemble}/manifest.json"}, ConfigError, "is in the ensemble, which never changes"),
        ({"masks": "{ensemble}"}, ConfigError, "is in the ensemble, which never changes"),
    ],
)
@pytest.mark.usefixtures("nothing_starts")
def test_what_cannot_be_predicted_is_refused_before_ray_starts(
    settings: dict[str, Any], error: type[SaltrayError], named: str, untrained: str, tiles_folder: Path
) -> None:
    call: Callable[..., Prediction] = saltray.predict
    places = {"ensemble": untrained, "data": str(tiles_folder)}
    given = {
        name: value.format(**places) if isinstance(value, str) and "{" in value else value
        for name, value in settings.items()
    }
    with pytest.raises(error, match=named) as caught:
        call(**places | {"out": "x.csv"} | given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", ["out", "masks", "probabilities"])
@pytest.mark.usefixtures("nothing_starts")
def test_an_output_of_one_job_of_a_cluster_is_refused(
    flag: str, untrained: str, tiles_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    uris: dict[str, Any] = {"out": "s3://bucket/x", flag: "x"}
    with pytest.raises(ConfigError, match=f"--{flag} x is in the working directory of this one job"):
        saltray.predict(ensemble=untrained, data=str(tiles_folder), **uris)


@pytest.mark.usefixtures("nothing_starts")
def test_a_gpu_that_torch_cannot_use_is_refused_before_ray_starts(
    untrained: str, tiles_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saltray.distributed.preflight.is_connected", lambda: False)
    monkeypatch.setattr("saltray.distributed.preflight.gpu_fault", lambda: "found 1 x X, but torch has no CUDA")
    with pytest.raises(ResourceError, match=r"found 1 x X, .* CUDA_VISIBLE_DEVICES, or set it to nothing"):
        saltray.predict(ensemble=untrained, data=str(tiles_folder), out="x.csv")


@pytest.mark.usefixtures("nothing_starts")
def test_all_bad_tiles_are_told_before_ray_starts(untrained: str, tiles: Path) -> None:
    good = sorted((tiles / "test/images").iterdir())
    Image.fromarray(np.ones((101, 102), np.uint8)).save(good[0])
    good[1].write_text("junk")
    good[2].write_bytes(good[2].read_bytes()[:-30])
    with pytest.raises(DataError, match="3 problems in ") as caught:
        saltray.predict(ensemble=untrained, data=str(tiles), out="x.csv")
    assert "\n" not in str(caught.value)
    assert [problem.split(":")[0].rpartition("/")[2] for problem in caught.value.problems] == [
        path.name for path in good[:3]
    ]


def test_tiles_brighter_than_the_training_images_are_told(
    stream: Stream, untrained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = resolve(untrained)
    manifest = replace(read_manifest(home), pixel_range=PixelRange(bits=16, maximum=3000))
    monkeypatch.setattr(module, "read_manifest", lambda home: manifest)
    (tmp_path / "tiles").mkdir()
    for name, top in (("a", 3500), ("b", 3000)):
        Image.fromarray(np.full((101, 101), top, np.uint16)).save(tmp_path / f"tiles/{name}.png")
    events: list[Event] = []
    saltray.predict(ensemble=untrained, data=str(tmp_path / "tiles"), out=tmp_path / "x.csv", observer=events.append)
    assert events[0] == TilesClipped(("a.png",))
    assert stream.given["reader"].scale == manifest.pixel_range


@pytest.mark.parametrize("damage", ["shorten", "remove", "swap"])
@pytest.mark.usefixtures("nothing_starts")
def test_a_damaged_member_is_told_before_ray_starts(
    damage: str, untrained: str, tiles_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = Path(shutil.copytree(untrained, tmp_path_factory.mktemp("damaged") / "r1/v1"))
    member, other = copy / "fold-0.safetensors", copy / "fold-1.safetensors"
    if damage == "shorten":
        member.write_bytes(member.read_bytes()[:-10])
    elif damage == "remove":
        member.unlink()
    else:
        one, two = member.read_bytes(), other.read_bytes()
        member.write_bytes(two)
        other.write_bytes(one)
    with pytest.raises(EnsembleError, match=f"{member}.*; `saltray ensemble verify {copy}` checks them all") as caught:
        saltray.predict(ensemble=str(copy), data=str(tiles_folder), out="x.csv")
    assert ("(and 1 more member)" in str(caught.value)) == (damage == "swap")


@pytest.mark.usefixtures("nothing_starts")
def test_a_submission_with_other_ids_than_the_sample_is_refused_before_ray_starts(untrained: str, tiles: Path) -> None:
    gone = min((tiles / "test/images").iterdir())
    gone.unlink()
    with pytest.raises(DataError, match=rf"1 of its 6 ids has no image \({gone.stem}\)"):
        saltray.predict(ensemble=untrained, data=str(tiles), out="x.csv")


def test_a_folder_of_images_alone_and_training_images_have_no_sample(
    stream: Stream, untrained: str, tiles: Path, tmp_path: Path
) -> None:
    min((tiles / "test/images").iterdir()).unlink()
    settings: dict[str, Any] = {"ensemble": untrained, "out": tmp_path / "x.csv", "tta": False}
    assert saltray.predict(data=str(tiles / "test/images"), **settings).tiles == 5
    assert saltray.predict(data=str(tiles), part="train", **settings).tiles == 24


def test_labelled_tiles_are_scored_where_no_model_has_seen_them(
    stream: Stream, untrained: str, tiles: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    store = tmp_path_factory.mktemp("seen")
    ensemble = str(shutil.copytree(untrained, store / "ensembles/r1/v1"))
    split = open_store(str(store / "runs/r1"))
    settings: dict[str, Any] = {"data": str(tiles), "part": "train", "tta": False, "out": tmp_path / "x.csv"}

    done = saltray.predict(ensemble=ensemble, **settings)
    assert done.score is None
    assert done.unscored == f"the split of run r1 is not in {store}, so the models may have seen these tiles"

    split.put_json("folds.json", {"fold_of": {"another": 0}, "balance": []})
    done = saltray.predict(ensemble=ensemble, masks=tmp_path / "masks", **settings)
    assert (done.score is not None, done.unscored) == (True, None)
    truth = read_tiles(str(tiles))
    found = np.stack([np.asarray(Image.open(tmp_path / f"masks/{tile}.png")) for tile in truth.ids]) > 0
    counts = TileCounts.of(found.astype(np.float32), truth.masks, (0.5,))
    assert done.score is not None
    assert (done.score.tiles, done.score.score) == (24, pytest.approx(counts.tenths.mean() / 10))

    split.put_json("folds.json", {"fold_of": {truth.ids[3]: 0, "another": 1}, "balance": []})
    done = saltray.predict(ensemble=ensemble, **settings)
    assert (done.score, done.unscored) == (None, "the ensemble was trained on 1 of these 24 tiles, by their ids")

    split.put_json("folds.json", {"fold_of": {"another": 0}, "balance": []})
    (tiles / f"train/masks/{truth.ids[5]}.png").write_bytes(b"junk")
    done = saltray.predict(ensemble=ensemble, **settings)
    assert done.score is None
    assert f"masks/{truth.ids[5]}.png" in (done.unscored or "")


def labelled(where: Path) -> None:
    """A few tiles in train/images and train/masks, and their table."""
    for part in ("images", "masks"):
        (where / "train" / part).mkdir(parents=True)
        for name in ("a", "b"):
            Image.fromarray(np.zeros((101, 101), np.uint8)).save(where / f"train/{part}/{name}.png")
    (where / "train/train.csv").write_text("id,rle_mask\na,\nb,\n")


def inner(home: Path) -> None:
    labelled(home / "inner")


def capitals(home: Path) -> None:
    labelled(home)
    (home / "train/masks").rename(home / "train/Masks")
    (home / "train").rename(home / "Train")


def flat(home: Path) -> None:
    labelled(home / "x")
    for part in ("images", "masks"):
        (home / "x/train" / part).rename(home / part)
    shutil.rmtree(home / "x")
    shutil.copytree(home / "images", home / "test/images")


def linked(home: Path) -> None:
    """The labels are in another folder."""
    labelled(home.parent / "real")
    (home / "train").symlink_to(home.parent / "real/train")
    shutil.copytree(home.parent / "real/train/images", home / "test/images")


def links(home: Path) -> None:
    """Each label is a link to a file of another folder."""
    labelled(home)
    (home / "train/masks").rename(home.parent / "real")
    (home / "train/masks").mkdir()
    for name in ("a.png", "b.png"):
        (home / "train/masks" / name).symlink_to(home.parent / "real" / name)


def zipped(home: Path) -> None:
    labelled(home / "x/train.d")
    shutil.make_archive(str(home / "train"), "zip", home / "x/train.d/train")
    shutil.rmtree(home / "x")


def images(home: Path) -> None:
    labelled(home / "x")
    (home / "x/train/images").rename(home / "images")
    shutil.rmtree(home / "x")


def loose(home: Path) -> None:
    images(home)
    for path in (home / "images").iterdir():
        path.rename(home / path.name)
    (home / "images").rmdir()


@pytest.mark.parametrize(
    ("make", "flag", "value"),
    [
        (inner, "masks", "inner/train/masks"),
        (inner, "masks", "inner/train"),
        (inner, "masks", "."),
        (inner, "masks", "masks"),  # the data set would be where they are
        (inner, "masks", "other/masks"),
        (inner, "out", "inner/train/train.csv"),
        (inner, "out", "inner/train.csv"),
        (inner, "out", "inner/train/masks/a.png"),
        (inner, "probabilities", "inner/train/images/p.parquet"),
        (capitals, "masks", "Train/Masks"),
        (capitals, "out", "Train/train.csv"),
        (flat, "masks", "masks"),
        (flat, "out", "masks/a.png"),
        (flat, "out", "depths.csv"),
        (linked, "masks", "../real/train/masks"),
        (linked, "masks", "train/masks"),
        (links, "masks", "../real"),
        (links, "out", "../real/a.png"),
        (zipped, "out", "train.zip"),
        (images, "masks", "masks"),
        (images, "masks", "Masks"),
        (loose, "masks", "masks"),
        (loose, "masks", "out/masks"),
        (loose, "out", "a.png"),
        (loose, "masks", "."),
    ],
)
@pytest.mark.usefixtures("nothing_starts")
def test_an_output_that_is_of_the_data_set_is_refused(
    make: Callable[[Path], None], flag: str, value: str, untrained: str, tmp_path: Path
) -> None:
    home = tmp_path / "data/set"
    home.mkdir(parents=True)
    make(home)
    before = contents(tmp_path)
    part: Any = "test" if make in (flat, images, loose) else "train"
    settings: dict[str, Any] = {"out": tmp_path / "x.csv", flag: home / value}
    with pytest.raises(ConfigError, match=f"--{flag} .* would (replace files|become a part) of the data set; choose"):
        saltray.predict(ensemble=untrained, data=str(home), part=part, **settings)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("nothing_starts")
def test_an_output_that_is_of_the_data_set_in_s3_is_refused(
    untrained: str, tmp_path: Path, s3_uri: Callable[[], str]
) -> None:
    uri = s3_uri()
    labelled(tmp_path / "data")
    for name, data in contents(tmp_path / "data").items():
        open_store(uri).put(f"inner/{name}", data)
    for settings in (
        {"masks": f"{uri}/inner/train/masks"},
        {"masks": f"{uri}/masks"},
        {"out": f"{uri}/inner/train/train.csv"},
        {"out": f"{uri}/inner/depths.csv"},
    ):
        with pytest.raises(ConfigError, match="would (replace files|become a part) of the data set"):
            saltray.predict(ensemble=untrained, data=uri, part="train", **{"out": tmp_path / "x.csv"} | settings)


@pytest.mark.parametrize(("make", "part"), [(inner, "train"), (images, "test"), (loose, "test"), (links, "train")])
def test_outputs_beside_the_data_set_do_not_change_it(
    make: Callable[[Path], None], part: Any, stream: Stream, untrained: str, tmp_path: Path
) -> None:
    home = tmp_path / "data/set"
    home.mkdir(parents=True)
    make(home)
    for _ in range(2):
        done = saltray.predict(
            ensemble=untrained, data=str(home), part=part, out=home / "out/x.csv", masks=home / "out/salt"
        )
        assert done.tiles == 2


def test_a_zip_is_opened_by_the_command_and_by_each_process_that_reads(
    stream: Stream, untrained: str, tiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    class Counted(Archive):
        def __init__(self, store: Store, name: str) -> None:
            opened.append(name)
            super().__init__(store, name)

    monkeypatch.setattr(saltray.data.source, "Archive", Counted)
    archive = shutil.make_archive(str(tmp_path / "tiles"), "zip", tiles_folder)
    saltray.predict(ensemble=untrained, data=archive, out=tmp_path / "x.csv", tta=False)
    assert opened == ["tiles.zip"] * 3  # the third is a node that looks whether it is there
