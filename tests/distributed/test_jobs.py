"""What travels between the driver and the ranks."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import ray

from saltray.config import Config
from saltray.data.tiles import LabelledTiles
from saltray.distributed.jobs import Job, PermanentFailure, TrialHistory
from saltray.runs.history import EpochRecord
from saltray.storage.base import Store
from saltray.training.tile_pool import TilePart

MakeJob = Callable[..., Job]


def test_a_job_has_a_part_of_the_store_of_its_own(make_job: MakeJob, home: Store) -> None:
    assert make_job(3).home.uri == f"{home.uri}/fold-3"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_all_jobs_share_one_copy_of_tiles_and_weights(home: Store, small: Callable[..., Config]) -> None:
    tiles = LabelledTiles(("a", "b"), np.ones((2, 3, 4), np.uint8), np.zeros((2, 3, 4), np.uint8))
    fold_of = np.array([0, 1])
    weights: dict[str, Any] = {"layer": np.arange(3.0)}
    other: dict[str, Any] = {"layer": np.zeros(3)}
    config = small("tiles", "store")
    parts = [TilePart.of(tiles.select(np.array([tile]))) for tile in (0, 1)]
    template = Job.template(config, home, tiles=parts, fold_of=fold_of, initial_weights=[weights, other, weights])
    jobs = [replace(template, name=f"fold-{fold}", folds=(fold,)) for fold in (0, 1)]
    assert [job.tiles for job in jobs] == [template.tiles] * 2
    for shared, part in zip(ray.get(list(template.tiles)), parts, strict=True):
        assert shared.ids.tolist() == part.ids.tolist()
        for name in ("images", "mask_bits", "keys"):
            array = getattr(shared, name)
            np.testing.assert_array_equal(array, getattr(part, name))
            assert not array.flags.writeable  # it is in the object store's own memory, not a copy
    np.testing.assert_array_equal(ray.get(template.fold_of), fold_of)
    first, second, third = template.initial_weights
    assert first == third  # what several folds share is there once
    for found, given in ((first, weights), (second, other)):
        np.testing.assert_array_equal(ray.get(found)["layer"], given["layer"])
    assert Job.template(config, home, tiles=parts, fold_of=fold_of).initial_weights == ()


@pytest.mark.parametrize(
    "value",
    [
        PermanentFailure("the loss became NaN", diverged=True),
        TrialHistory((EpochRecord(epoch=1, loss=0.5, lr=0.1, seconds=2.0, images_per_second=9.0, at=3.0),)),
    ],
)
def test_what_rank_0_returns_survives_pickling(value: Any) -> None:
    assert pickle.loads(pickle.dumps(value)) == value


def test_a_job_survives_pickling_with_its_store(make_job: MakeJob) -> None:
    job = make_job(2)
    again = pickle.loads(pickle.dumps(job))
    assert (again.config, again.name, again.folds, again.home.uri) == (job.config, "fold-2", (2,), job.home.uri)
