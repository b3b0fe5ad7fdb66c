"""Labels of test tiles on a rank: made once, kept in the store, and the same whoever resumes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from saltray.config import Config, FoldConfig, PseudoLabelConfig
from saltray.data.random import tile_keys
from saltray.data.tiles import LabelledTiles, Tiles
from saltray.distributed.job_setup import JobTiles, set_up_fold
from saltray.distributed.jobs import Job
from saltray.distributed.pseudo_tiles import pseudo_tiles
from saltray.errors import ConfigError, IntegrityError
from saltray.runs.pseudo_labels import find_teacher, label, read_labels
from saltray.storage.uri import open_store
from saltray.training.process_group import ProcessGroup
from saltray.training.tile_pool import TilePart

ALONE = ProcessGroup.single()
COUNT = 4
"""Test tiles that are trained on, of 7."""


def some_tiles(count: int, prefix: str = "") -> LabelledTiles:
    draw = np.random.default_rng(count)
    masks = draw.integers(0, 2, (count, 40, 40)).astype(np.uint8)
    return LabelledTiles(tuple(f"{prefix}{at}" for at in range(count)), masks * 90 + 60, masks)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Objects of Ray's store are themselves."""
    monkeypatch.setattr(ray, "get", lambda value: value)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def job(make_job: Callable[..., Job], small: Callable[..., Config], untrained: str) -> Job:
    """Fold 1 of 2, with 4 of 7 test tiles in two shards, labelled by two untrained models."""
    config = replace(small("tiles", "store"), folds=FoldConfig(count=2))
    config = replace(config, pseudo_labels=PseudoLabelConfig(ensemble=untrained))
    teacher = find_teacher(config)
    assert teacher is not None
    test = some_tiles(7, "test/")
    shards = [Tiles(test.ids[part], test.images[part]) for part in (slice(4), slice(4, 7))]
    return make_job(
        1,
        config=config,
        tiles=(TilePart.of(some_tiles(10)),),
        fold_of=np.arange(10) % 2,
        teacher=teacher,
        test=tuple(shards),
        pseudo_labels=teacher.provenance("a" * 64, COUNT),
    )


def chosen(job: Job, fold: int = 1) -> LabelledTiles:
    found = pseudo_tiles(job, fold, ALONE)
    assert found is not None
    return found


def test_a_fold_trains_on_the_tiles_of_which_its_own_model_is_most_certain(job: Job) -> None:
    assert job.teacher is not None
    test = some_tiles(7, "test/")
    found = []
    for fold in range(2):
        tiles = chosen(job, fold)
        labels = label(job.teacher.models(fold, ALONE.device), job.teacher.manifest.config, test, ALONE.device)
        best = labels.most_confident(COUNT)
        assert tiles.ids == tuple(labels.ids[at] for at in best)
        np.testing.assert_array_equal(tiles.images, test.images[best])
        np.testing.assert_array_equal(tiles.masks, np.stack([labels.mask(at, 40, 40) for at in best]))
        found.append(read_labels(job.home, fold).confidence)
        np.testing.assert_allclose(found[-1], labels.confidence, rtol=1e-6)
    assert not np.allclose(*found)


def test_they_are_trained_on_and_never_held_out(job: Job) -> None:
    both = replace(job, folds=(0, 1))  # as a trial of a search has them
    tiles = JobTiles.open(both, ALONE)
    for fold in range(2):
        here = set_up_fold(both, fold, ALONE, tiles)
        own = chosen(job, fold)
        assert here.train.keys.tolist() == [*tile_keys(str(at) for at in range(1 - fold, 10, 2)), *tile_keys(own.ids)]
        assert here.valid.keys.tolist() == tile_keys(str(at) for at in range(fold, 10, 2)).tolist()
        batch = here.train.batch(torch.arange(5, 5 + COUNT))
        np.testing.assert_array_equal(batch.images.numpy(), own.images)
        np.testing.assert_array_equal(batch.masks.numpy(), own.masks)


def test_whoever_resumes_trains_on_the_labels_that_were_kept(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    first = chosen(job)
    assert job.teacher is not None
    gone = replace(job.teacher, home=open_store("/nowhere"))
    again = chosen(replace(job, teacher=gone))
    assert again.ids == first.ids
    np.testing.assert_array_equal(again.masks, first.masks)
    job.home.put("pseudo-labels/fold-1.parquet", b"junk")
    with pytest.raises(IntegrityError, match=r"fold-1\.parquet"):
        chosen(job)


def test_labels_of_other_models_or_tiles_are_not_taken(job: Job) -> None:
    chosen(job)
    assert job.teacher is not None
    crossed = replace(job.teacher, members=job.teacher.members[::-1])
    before = read_labels(job.home, 1).confidence
    chosen(replace(job, teacher=crossed, pseudo_labels=crossed.provenance("a" * 64, COUNT)))
    after = read_labels(job.home, 1).confidence
    chosen(job, 0)
    np.testing.assert_array_equal(after, read_labels(job.home, 0).confidence)
    assert not np.allclose(after, before)


def test_an_ensemble_that_this_node_does_not_see(job: Job, tmp_path: Path) -> None:
    assert job.teacher is not None
    hidden = replace(job.teacher, home=open_store(str(tmp_path / "elsewhere")))
    with pytest.raises(ConfigError, match=r"elsewhere.*; name an ensemble in s3://, or in a folder that all nodes"):
        pseudo_tiles(replace(job, teacher=hidden), 1, ALONE)


def test_a_job_without_a_teacher_has_none(make_job: Callable[..., Job]) -> None:
    assert pseudo_tiles(make_job(), 0, ALONE) is None
