"""Tiles through an ensemble by Ray Data: how many workers, what a worker does, and how its fault is told."""

import os
import pickle
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saltray.data.pixel_range import PixelRange
from saltray.data.rle import decode_rle
from saltray.data.tile_reader import TileReader
from saltray.distributed import prediction
from saltray.distributed.capacity import Node
from saltray.distributed.prediction import PredictionWorkers, choose_workers
from saltray.ensemble.postprocess import Postprocess
from saltray.errors import ConfigError, DataError, EnsembleError, NotFoundError, ResourceError

CPUS: list[Node] = [{"CPU": 3.0}, {"CPU": 1.0}]
GPUS: list[Node] = [{"CPU": 8.0, "GPU": 2.0}]


@pytest.mark.parametrize(
    ("present", "possible", "asked", "tiles", "workers"),
    [
        (CPUS, [], None, 1000, PredictionWorkers(4, "CPU")),
        (CPUS, [], 2, 1000, PredictionWorkers(2, "CPU")),
        (CPUS, [], 9, 1000, PredictionWorkers(9, "CPU")),
        (CPUS, [], None, 65, PredictionWorkers(2, "CPU")),  # two batches
        (GPUS, [], None, 1000, PredictionWorkers(2, "GPU")),
        (GPUS, [], 1, 1000, PredictionWorkers(1, "GPU")),
        # A head node without GPUs that can start nodes with some.
        ([{"CPU": 0.0}], GPUS, None, 1000, PredictionWorkers(1, "GPU")),
        ([{"CPU": 0.0}], GPUS, 2, 1000, PredictionWorkers(2, "GPU")),
        ([{"CPU": 0.5}], [], None, 1000, PredictionWorkers(1, "CPU")),
    ],
)
def test_a_worker_per_gpu_or_per_cpu_and_no_more_than_batches(
    present: list[Node],
    possible: list[Node],
    asked: int | None,
    tiles: int,
    workers: PredictionWorkers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prediction, "nodes_present", lambda: present)
    monkeypatch.setattr(prediction, "nodes_possible", lambda: possible)
    assert choose_workers(asked, tiles) == workers


def test_more_workers_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "nodes_present", lambda: GPUS)
    monkeypatch.setattr(prediction, "nodes_possible", list)
    with pytest.raises(ConfigError, match="3 workers need a GPU each, but the cluster has at most 2; lower --workers"):
        choose_workers(3, 1000)


@pytest.fixture
def images(tmp_path: Path) -> str:
    """A folder with two test images of 4x5 pixels."""
    folder = tmp_path / "tiles/test/images"
    folder.mkdir(parents=True)
    for number in (1, 2):
        Image.fromarray(np.full((4, 5), number, np.uint8)).save(folder / f"{number}.png")
    return str(tmp_path / "tiles")


def reader_of(uri: str, height: int, width: int) -> TileReader:
    return TileReader(uri=uri, height=height, width=width, scale=PixelRange(bits=8, maximum=255))


NAMES = {"name": np.array(["test/images/1.png", "test/images/2.png"])}


def test_names_become_pixels(images: str) -> None:
    decoded = prediction._Decode(reader_of(images, 4, 5))(NAMES)
    assert decoded["id"].tolist() == ["1", "2"]
    np.testing.assert_array_equal(decoded["image"], np.stack([np.full((4, 5), 1), np.full((4, 5), 2)]))
    assert decoded["fault"].tolist() == [b"", b""]


def test_a_tile_of_another_size_is_a_fault_of_its_batch(images: str) -> None:
    decoded = prediction._Decode(reader_of(images, 5, 4))(NAMES)
    assert decoded["image"].shape == (2, 5, 4)  # as in every other batch
    fault = pickle.loads(decoded["fault"][0])
    assert type(fault) is DataError
    assert str(fault) == (
        f"test/images/1.png of {images}: 4x5 pixels, but the ensemble was trained on 5x4; crop or pad it"
    )


def test_a_tile_that_vanishes_is_a_fault_of_its_batch(images: str) -> None:
    Path(images, "test/images/2.png").unlink()
    fault = pickle.loads(prediction._Decode(reader_of(images, 4, 5))(NAMES)["fault"][1])
    assert type(fault) is NotFoundError
    assert "test/images/2.png: there is no such object" in str(fault)


MASKS = SimpleNamespace(postprocess=Postprocess(threshold=0.2, min_area=2, blank_is_empty=True))
"""The part of a manifest that decides about masks."""
BATCH = {"id": np.array(["a", "b"]), "image": np.zeros((2, 3, 3), np.uint8), "fault": np.array([b"", b""], object)}


@pytest.mark.parametrize("keep", [True, False])
def test_pixels_become_masks_by_the_ensembles_post_processing(keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given = np.zeros((3, 3, 3), np.float32)
    given[0, 1] = 0.25
    given[1, 0, 0] = given[2, 1] = 0.3  # a single pixel, and a row of a tile that is blank
    loaded: list[Any] = []

    def predict(images: Any, *, tta: bool) -> Any:
        assert not tta
        return given

    def load(uri: str, *, device: str) -> Any:
        loaded.append((uri, device))
        return SimpleNamespace(predict=predict, manifest=MASKS)

    monkeypatch.setattr(prediction.Ensemble, "load", load)
    images = np.zeros((3, 3, 3), np.uint8)
    images[:2, 0, 0] = 9
    batch = {"id": np.array(["a", "b", "c"]), "image": images, "fault": np.array([b""] * 3, object)}
    out = prediction._Predict("uri", "cpu", False, keep)(batch)
    assert loaded == [("uri", "cpu")]
    assert out["id"].tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(decode_rle(out["rle"][0], 3, 3), given[0] > 0.2)
    assert out["rle"][1:].tolist() == ["", ""]
    assert out["fault"].tolist() == [b"", b"", b""]
    assert ("probability" in out) == keep
    if keep:
        assert out["probability"].dtype == np.float16
        np.testing.assert_array_equal(out["probability"], given.astype(np.float16))


def test_an_ensemble_that_cannot_be_loaded_is_a_fault_of_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(uri: str, *, device: str) -> Any:
        raise EnsembleError("fold-0.safetensors is corrupted")

    monkeypatch.setattr(prediction.Ensemble, "load", load)
    out = prediction._Predict("uri", "cpu", True, True)(BATCH)
    assert str(pickle.loads(out["fault"][1])) == "fold-0.safetensors is corrupted"
    assert out["probability"].shape == (2, 3, 3)
    earlier = BATCH | {"fault": np.array([b"", pickle.dumps(DataError("1.png"))], object)}
    out = prediction._Predict("uri", "cpu", True, False)(earlier)
    assert str(pickle.loads(out["fault"][0])) == "1.png"  # what went wrong first


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_worker_that_is_killed_is_told_in_one_line(
    images: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import ray.data

    def killed(uri: str, *, device: str) -> Any:  # as the kernel does when memory is short
        def predict(images: Any, *, tta: bool) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

        return SimpleNamespace(predict=predict, manifest=MASKS)

    context = ray.data.DataContext.get_current()
    before = (context.enable_progress_bars, context.execution_options.preserve_order)
    monkeypatch.setattr(prediction, "_Predict", dying(killed))
    names = [str(name) for name in NAMES["name"]]
    settings: dict[str, Any] = {"tta": False, "keep_probabilities": False, "workers": PredictionWorkers(1, "CPU")}
    with pytest.raises(ResourceError, match="a worker was killed .*; give fewer --workers") as caught:
        list(prediction.stream_predictions("unused", reader_of(images, 4, 5), names, **settings))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert ray.data.DataContext.get_current() is context
    assert (context.enable_progress_bars, context.execution_options.preserve_order) == before


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize(
    ("where", "raised", "told"),
    [
        ("predict", "CUDA error: no kernel image\nAdvice", "a worker failed: RuntimeError: CUDA error: no .*image$"),
        ("predict", "CUDA out of memory. Tried to", "CUDA out of memory. .*; use fewer --workers, or a larger GPU$"),
        ("load", "Found no NVIDIA driver", "a worker failed: RuntimeError: Found no NVIDIA driver$"),
    ],
)
def test_a_worker_that_raises_is_told_in_one_line(
    where: str, raised: str, told: str, images: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise RuntimeError(raised)

    def load(uri: str, *, device: str) -> Any:
        return fail() if where == "load" else SimpleNamespace(predict=fail, manifest=MASKS)

    monkeypatch.setattr(prediction, "_Predict", dying(load))
    names = [str(name) for name in NAMES["name"]]
    settings: dict[str, Any] = {"tta": False, "keep_probabilities": False, "workers": PredictionWorkers(1, "CPU")}
    with pytest.raises(ResourceError, match=told) as caught:
        list(prediction.stream_predictions("unused", reader_of(images, 4, 5), names, **settings))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def dying(load: Any) -> Any:
    """`_Predict` whose ensemble is what `load` gives."""

    class Dying(prediction._Predict):
        def __init__(self, *args: Any) -> None:
            self.tta, self.keep_probabilities, self.fault, self.ensemble = False, False, b"", load("", device="")

    return Dying
