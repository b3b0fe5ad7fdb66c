"""The learning-rate range test as a job of Ray Train: what it suggests, what it leaves, how it fails."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest
from ray_session import Recorded, record

import saltray
from saltray.config import ClusterConfig, Config
from saltray.data.synthetic import write_dataset
from saltray.errors import ConfigError, RunLockedError, SearchFailedError
from saltray.progress import CapacityFound, DataNote, Event, LockTakenOver, RangeTestPlanned
from saltray.storage.base import Store
from saltray.storage.lock import RunLock
from saltray.storage.uri import open_store

Small = Callable[..., Config]
STEPS = 40

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]


@pytest.fixture(scope="module")
def tested(ray_here: None, small: Small, tmp_path_factory: pytest.TempPathFactory) -> Recorded[Any]:
    """A range test on two ranks, of tiles that are easily learned, after one that was interrupted."""
    folder = tmp_path_factory.mktemp("range-test")
    tiles = write_dataset(folder / "tiles", tiles=24, seed=1, test_tiles=0, noise=0)
    with (tiles / "train.csv").open("a") as table:
        table.write("stranger,1 1\n")
    config = small(tiles, folder / "store", cluster=ClusterConfig(workers_per_fold=2, max_failures=0))
    config = replace(config, train=replace(config.train, batch_size=8))
    # Ray Train would resume from its own records of an earlier job of this name.
    search = open_store(f"{folder}/store/searches/s1")
    search.put("range-test/job/checkpoint_manager_snapshot.json", b"of another job")
    return record(saltray.range_test, config, low=1e-4, high=1.0, steps=STEPS)


def test_a_range_test_suggests_a_rate(tested: Recorded[saltray.RangeTestResult]) -> None:
    found = tested.result
    assert 30 < len(found.rates) == len(found.losses) == len(found.smooth) <= STEPS
    assert found.rates[0] == pytest.approx(1e-4)
    # Nothing is learned at the lowest rates, whatever tiles are in the batch.
    assert found.smooth[:8] == pytest.approx(found.smooth[:1] * 8, rel=2e-3)
    assert found.losses[:8] != pytest.approx(found.smooth[:1] * 8, rel=1e-2)
    assert found.suggestion is not None
    assert 1e-3 < found.suggestion < 1e-1
    assert any(found.suggestion == pytest.approx(rate / 10) for rate in found.rates)


def test_a_range_test_prints_nothing_and_tells_its_observer(tested: Recorded[saltray.RangeTestResult]) -> None:
    assert tested.printed == ""
    assert tested.events == [
        DataNote("train.csv: 1 rows without a tile, not used: stranger"),
        RangeTestPlanned(STEPS, 8, 1e-4, 1.0),
        CapacityFound(
            where="Ray on this machine", job="test", needs="2 ranks of 1 CPU", jobs=1, concurrency=1, ready=1
        ),
    ]


def test_a_range_test_leaves_its_numbers_and_its_figure(tested: Recorded[saltray.RangeTestResult]) -> None:
    found, store = tested.result, open_store(tested.result.uri)
    kept = store.get_json("range-test.json")
    assert (kept["suggestion"], tuple(kept["rates"])) == (found.suggestion, found.rates)
    assert (tuple(kept["losses"]), tuple(kept["smooth"])) == (found.losses, found.smooth)
    assert kept["config"]["train"]["batch_size"] == 8
    assert store.get("range-test.png").startswith(b"\x89PNG")
    assert {entry.key for entry in store.list() if not entry.key.startswith("lock/")} == {
        "range-test.json",
        "range-test.png",
    }


class FakePool:
    """A pool whose one job ends with `value`."""

    value: Any = None

    def __init__(self, resources: Any) -> None:
        self.job: Any = None

    def start(self, train_loop: Any, job: Any) -> None:
        self.job = job

    def wait(self, seconds: float) -> Any:
        from saltray.distributed.job_pool import JobOutcome

        return JobOutcome(self.job, self.value)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def permanent() -> Any:
    from saltray.distributed.jobs import PermanentFailure

    return PermanentFailure("the tiles are larger than the input", diverged=False)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            permanent,
            "the range test failed: the tiles are larger than the input; as these settings would fail again",
        ),
        (lambda: RuntimeError("Traceback\nlost"), "the range test failed: lost (full text: "),
        (lambda: None, "the range test failed: rank 0 returned None instead of a result; please report this"),
    ],
)
def test_a_range_test_that_fails_says_why(
    value: Any, told: str, small: Small, tiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakePool, "value", value())
    monkeypatch.setattr("saltray.distributed.job_pool.JobPool", FakePool)
    with pytest.raises(SearchFailedError) as caught:
        saltray.range_test(small(tiles_folder, tmp_path))
    assert str(caught.value).startswith(told)


def test_a_second_process_is_refused(small: Small, tiles_folder: Path, tmp_path: Path) -> None:
    home: Store = open_store(f"{tmp_path}/searches/s7")
    with RunLock(home, "search s7", beat=0.05), pytest.raises(RunLockedError, match="search s7 is being run by"):
        saltray.range_test(small(tiles_folder, tmp_path), name="s7")
    assert not home.exists("range-test.json")


def test_a_stale_lock_is_taken_over_and_a_lost_one_leaves_no_result(
    small: Small,
    tiles_folder: Path,
    tmp_path: Path,
    stale_lock: Callable[[Store], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from saltray.training.lr_range_test import LRRangeTest

    class LosesLock(RunLock):
        def check(self) -> None:
            raise RunLockedError("search s1 was taken over")

    monkeypatch.setattr(FakePool, "value", LRRangeTest((0.1, 0.2), (1.0, 0.9), (1.0, 0.9)))
    monkeypatch.setattr("saltray.distributed.job_pool.JobPool", FakePool)
    monkeypatch.setattr("saltray.commands.range_test.RunLock", LosesLock)
    home = open_store(f"{tmp_path}/searches/s1")
    owner, events = stale_lock(home), list[Event]()
    with pytest.raises(RunLockedError):
        saltray.range_test(small(tiles_folder, tmp_path), observer=events.append)
    assert LockTakenOver(owner) in events
    assert not home.exists("range-test.json")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"low": 1.0, "high": 0.1}, "the range 1..0.1 is not one of positive numbers"),
        ({"low": 0.0}, "the range 0..1"),
        ({"high": float("inf")}, "the range 1e-05..inf"),
        ({"steps": 1}, "steps is 1; use 2 or more"),
        ({"fold": 2}, "there is no fold 2; the split has folds 0 to 1"),
        ({"name": "../s"}, "'../s' is not a plain name"),
    ],
)
def test_an_impossible_range_test_leaves_nothing(
    settings: dict[str, Any], named: str, small: Small, tiles_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=named):
        saltray.range_test(small(tiles_folder, tmp_path / "store"), **settings)
    assert not (tmp_path / "store").exists()
