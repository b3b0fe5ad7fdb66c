"""Tiles through an ensemble by actors: how many workers, what a worker does, and how its fault is told."""

import os
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch
from PIL import Image

from saltray.data.pixel_range import PixelRange
from saltray.data.rle import decode_rle
from saltray.data.tile_reader import TileReader
from saltray.distributed import prediction
from saltray.distributed.capacity import Node
from saltray.distributed.prediction import Batch, PredictionWorkers, Worker, choose_workers
from saltray.ensemble.postprocess import Postprocess
from saltray.errors import ConfigError, DataError, EnsembleError, NotFoundError, ResourceError, SaltrayError

CPUS: list[Node] = [{"CPU": 3.0}, {"CPU": 1.0}]
GPUS: list[Node] = [{"CPU": 8.0, "GPU": 2.0}]


@pytest.mark.parametrize(
    ("present", "possible", "asked", "tiles", "workers"),
    [
        (CPUS, [], None, 1000, PredictionWorkers(4, "CPU")),
        (CPUS, [], 2, 1000, PredictionWorkers(2, "CPU", 1)),
        (CPUS, [], 1, 1000, PredictionWorkers(1, "CPU", 3)),
        (CPUS, [], 9, 1000, PredictionWorkers(9, "CPU")),
        (CPUS, [], None, 33, PredictionWorkers(2, "CPU")),  # two batches
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


NAMES = ["test/images/1.png", "test/images/2.png"]
MASKS = SimpleNamespace(postprocess=Postprocess(threshold=0.2, min_area=2, blank_is_empty=True))
"""The part of a manifest that decides about masks."""


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ensemble that is not loaded."""
    monkeypatch.setattr(prediction.Ensemble, "load", lambda uri, *, device: None)


def worker(reader: TileReader, *, keep: bool = False, threads: int = 1) -> Worker:
    return Worker("uri", reader, "cpu", threads, False, keep)


@pytest.mark.usefixtures("untouched")
def test_a_tile_of_another_size_is_the_fault_of_its_batch(images: str) -> None:
    fault = worker(reader_of(images, 5, 4)).predict(NAMES)
    assert type(fault) is DataError
    assert str(fault) == (
        f"test/images/1.png of {images}: 4x5 pixels, but the ensemble was trained on 5x4; crop or pad it"
    )
    assert str(pickle.loads(pickle.dumps(fault))) == str(fault)  # as Ray carries it


@pytest.mark.usefixtures("untouched")
def test_a_tile_that_vanishes_is_the_fault_of_its_batch(images: str) -> None:
    Path(images, "test/images/2.png").unlink()
    fault = worker(reader_of(images, 4, 5)).predict(NAMES)
    assert type(fault) is NotFoundError
    assert "test/images/2.png: there is no such object" in str(fault)


@pytest.mark.parametrize("keep", [True, False])
def test_pixels_become_masks_by_the_ensembles_post_processing(
    keep: bool, images: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = np.zeros((3, 4, 5), np.float32)
    given[0, 1] = 0.25
    given[1, 0, 0] = given[2, 1] = 0.3  # a single pixel, and a row of a tile that is blank
    loaded: list[Any] = []
    varied = np.zeros((4, 5), np.uint8)
    varied[0, 0] = 9
    for number, pixels in enumerate([varied, varied, varied * 0], 1):
        Image.fromarray(pixels).save(Path(images, f"test/images/{number}.png"))

    def predict(images: Any, *, tta: bool) -> Any:
        assert not tta
        np.testing.assert_array_equal(images, [varied, varied, varied * 0])
        return given

    def load(uri: str, *, device: str) -> Any:
        loaded.append((uri, device, torch.get_num_threads()))
        return SimpleNamespace(predict=predict, manifest=MASKS)

    monkeypatch.setattr(prediction.Ensemble, "load", load)
    before = torch.get_num_threads()
    try:
        batch = worker(reader_of(images, 4, 5), keep=keep, threads=before + 1).predict([*NAMES, "test/images/3.png"])
    finally:
        torch.set_num_threads(before)
    assert loaded == [("uri", "cpu", before + 1)]
    assert isinstance(batch, Batch)
    assert batch.ids == ["1", "2", "3"]
    np.testing.assert_array_equal(decode_rle(batch.rles[0], 4, 5), given[0] > 0.2)
    assert batch.rles[1:] == ["", ""]
    assert (batch.probabilities is not None) == keep
    if batch.probabilities is not None:
        assert batch.probabilities.dtype == np.float16
        np.testing.assert_array_equal(batch.probabilities, given.astype(np.float16))


def test_an_ensemble_that_cannot_be_loaded_hinders_a_worker(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(uri: str, *, device: str) -> Any:
        raise EnsembleError("fold-0.safetensors is corrupted")

    monkeypatch.setattr(prediction.Ensemble, "load", load)
    fault = worker(reader_of(images, 4, 5)).ready()
    assert type(fault) is EnsembleError
    assert str(fault) == "fold-0.safetensors is corrupted"


@pytest.mark.parametrize(
    ("workers", "nodes", "threads"),
    [
        (2, [{"CPU": 2.0}], 1),
        (1, [{"CPU": 16.0}], 16),
        (3, [{"CPU": 16.0}], 5),
        (1, [{"CPU": 8.0}, {"CPU": 8.0}], 8),  # a worker is on one node
        (3, [{"CPU": 8.0}, {"CPU": 8.0}], 4),  # two of 5 do not fit on one
        (9, [{"CPU": 2.0}], 1),
        (1, [{"CPU": 0.5}], 1),
        (1, [], 1),
    ],
)
def test_workers_share_out_the_cpus(workers: int, nodes: list[Node], threads: int) -> None:
    assert prediction._threads(workers, nodes) == threads


class Slow:
    """A worker whose first batch comes after all that others may do in the meantime."""

    def __init__(self, number: int) -> None:
        self.number = number

    def ready(self) -> None:
        """At once."""

    def predict(self, names: list[str]) -> Batch | SaltrayError:
        if names == ["0"]:
            time.sleep(0.5)
        return DataError("it is bad") if names == ["bad"] else Batch(ids=names, rles=[], probabilities=None)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_batches_come_in_order_and_the_first_fault_ends_all() -> None:
    actors = [ray.remote(Slow).options(num_cpus=0).remote(number) for number in range(2)]
    batches = [[str(number)] for number in range(20)]
    assert [batch.ids for batch in prediction._in_order(actors, batches, 2)] == batches
    with pytest.raises(DataError, match="it is bad"):
        list(prediction._in_order(actors, [["1"], ["bad"], ["2"]], 2))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_worker_that_is_killed_is_told_in_one_line(
    images: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def killed(uri: str, *, device: str) -> Any:  # as the kernel does when memory is short
        def predict(images: Any, *, tta: bool) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

        return SimpleNamespace(predict=predict, manifest=MASKS)

    monkeypatch.setattr(prediction, "Worker", dying(killed))
    settings: dict[str, Any] = {"tta": False, "keep_probabilities": False, "workers": PredictionWorkers(1, "CPU")}
    with pytest.raises(ResourceError, match="a worker was killed .*; give fewer --workers") as caught:
        list(prediction.stream_predictions("unused", reader_of(images, 4, 5), NAMES, **settings))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


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

    monkeypatch.setattr(prediction, "Worker", dying(load))
    settings: dict[str, Any] = {"tta": False, "keep_probabilities": False, "workers": PredictionWorkers(1, "CPU")}
    with pytest.raises(ResourceError, match=told) as caught:
        list(prediction.stream_predictions("unused", reader_of(images, 4, 5), NAMES, **settings))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def dying(load: Any) -> Any:
    """`Worker` whose ensemble is what `load` gives."""

    class Dying(Worker):
        def __init__(self, _: str, reader: TileReader, *args: Any) -> None:
            self.reader, self.tta, self.keep_probabilities, self.fault = reader, False, False, None
            self.predicting, self.pool = threading.Lock(), ThreadPoolExecutor(1)
            self.ensemble = load("", device="")

    return Dying
