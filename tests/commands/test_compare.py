"""`saltray compare`: two runs of the same tiles and folds, whose predictions are made up; and what is refused."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from samples import metrics
from tile_samples import write_whole_fold
from torch import nn

import saltray
from saltray.config import Config, FoldConfig
from saltray.data.packing import load_tiles
from saltray.data.synthetic import write_dataset
from saltray.data.tiles import LabelledTiles, TileIndex
from saltray.errors import ConfigError, IntegrityError, NotFoundError, SaltrayError
from saltray.runs.history import EpochRecord
from saltray.runs.run import create_run
from saltray.storage.base import Store
from saltray.storage.uri import open_store
from saltray.training.metrics import TileCounts

FOLDS = 3
MakeRun = Callable[..., None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """12 training tiles."""
    return str(write_dataset(tmp_path_factory.mktemp("data") / "tiles", tiles=12, seed=1, test_tiles=0))


@pytest.fixture
def root(any_store_uri: str) -> Store:
    return open_store(any_store_uri)


@pytest.fixture
def tiles(data: str, root: Store) -> LabelledTiles:
    return load_tiles(data, root)[0]


def fold_of(tiles: LabelledTiles) -> NDArray[np.int64]:
    return np.arange(len(tiles)) % FOLDS


@pytest.fixture
def make_run(data: str, root: Store, tiles: LabelledTiles) -> MakeRun:
    """Makes a run: `make_run(name, probabilities, folds=, split=, store=)`, of which these folds are finished."""

    def make(
        name: str,
        probabilities: NDArray[np.floating],
        *,
        folds: Iterable[int] = range(FOLDS),
        split: NDArray[np.int64] | None = None,
        store: Store = root,
        seed: int = 0,
    ) -> None:
        own, dataset = load_tiles(data, store)
        config = Config(data=data, store=store.uri, run=name, folds=FoldConfig(count=FOLDS, seed=seed))
        held = fold_of(own) if split is None else split
        home = store.sub(f"runs/{name}")
        settings: dict[str, Any] = {"initial_weights": None, "search_provenance": None}
        create_run(home, config, tiles=TileIndex.of(own.ids, own.masks), fold_of=held, dataset=dataset, **settings)
        epoch = EpochRecord(**vars(metrics(1)), at=100.0)
        for fold in folds:
            index = np.flatnonzero(held == fold)
            predicted = probabilities[index].astype(np.float16)
            write_whole_fold(home.sub(f"fold-{fold}"), fold, own.select(index), nn.Conv2d(1, 1, 1), predicted, [epoch])

    return make


def right(tiles: LabelledTiles) -> NDArray[np.floating]:
    return 0.1 + 0.8 * tiles.masks


def shifted(tiles: LabelledTiles) -> NDArray[np.floating]:
    """Some rows too low, and so wrong on every tile with salt that is not all of it."""
    return np.roll(right(tiles), 9, axis=1)


def test_a_better_run_is_better(root: Store, tiles: LabelledTiles, make_run: MakeRun, tmp_path: Path) -> None:
    make_run("bad", shifted(tiles))
    make_run("good", right(tiles))
    out = tmp_path / "pictures/x.png"
    found = saltray.compare("bad", "good", store=root.uri, out=out)
    tenths = TileCounts.of(shifted(tiles).astype(np.float16), tiles.masks, (0.5,)).tenths[:, 0]
    for row in (found.overall, found.plain):
        assert (row.tiles, row.second) == (12, 1.0)
        assert row.first == pytest.approx(tenths.mean() / 10)
        assert row.first + row.interval.low <= 1.0 <= row.first + row.interval.high + 1e-9 + (1 - row.first)
        assert row.interval.low > 0
        assert row.probability == 1.0
    assert (found.first, found.second, found.folds, found.left_out) == ("bad", "good", (0, 1, 2), ())
    assert [row.name for row in found.by_fold] == ["fold 0", "fold 1", "fold 2"]
    for fold, row in enumerate(found.by_fold):
        inside = fold_of(tiles) == fold
        assert (row.tiles, row.first) == (4, pytest.approx(tenths[inside].mean() / 10))
    empty = ~tiles.masks.any(axis=(1, 2))
    assert (found.by_stratum[0].name, found.by_stratum[0].tiles) == ("no salt", empty.sum())
    assert sum(row.tiles for row in found.by_stratum) == 12
    assert found.by_stratum[0].difference == 0
    assert Image.open(out).format == "PNG"
    swapped = saltray.compare("good", "bad", store=root.uri, out=out)
    assert swapped.overall.difference == pytest.approx(-found.overall.difference)
    assert swapped.overall.probability == 0.0


def test_settings_of_the_masks_are_chosen_on_other_folds(
    root: Store, tiles: LabelledTiles, make_run: MakeRun, tmp_path: Path
) -> None:
    make_run("low", 0.05 + 0.35 * tiles.masks)  # right at a threshold of 0.2, and never above 0.5
    make_run("good", right(tiles))
    found = saltray.compare("low", "good", store=root.uri, out=tmp_path / "x.png")
    assert (found.overall.difference, found.overall.probability) == (0, 0.5)
    empty = (~tiles.masks.any(axis=(1, 2))).mean()
    assert found.plain.difference == pytest.approx(1 - empty)


def test_folds_that_one_run_lacks_do_not_count(
    root: Store, tiles: LabelledTiles, make_run: MakeRun, tmp_path: Path
) -> None:
    make_run("a", shifted(tiles), folds=(0, 1))
    make_run("b", 0.05 + 0.35 * tiles.masks, folds=(1,))
    found = saltray.compare("a", "b", store=root.uri, out=tmp_path / "x.png")
    assert found.folds == (1,)
    assert found.left_out == (
        "fold 0 is left out: not finished in b",
        "fold 2 is left out: not finished in a and b",
    )
    assert [row.tiles for row in (found.overall, found.plain, *found.by_fold)] == [4, 4, 4]
    assert found.overall.second == 1.0  # with a threshold that was chosen on the other half of the fold
    assert found.plain.second < 1.0


def test_runs_of_two_stores(tiles: LabelledTiles, root: Store, make_run: MakeRun, tmp_path: Path) -> None:
    other = open_store(str(tmp_path / "other"))
    make_run("r1", right(tiles))
    make_run("r1", shifted(tiles), store=other)
    uri = f"{other.uri}/runs/r1"
    found = saltray.compare("r1", uri, store=root.uri, out=tmp_path / "x.png")
    assert (found.first, found.second) == ("r1", uri)
    assert found.overall.difference < 0
    for entry in list(root.list("datasets")):  # the other store has the tiles, too
        root.delete(entry.key)
    again = saltray.compare("r1", uri, store=root.uri, out=tmp_path / "x.png")
    assert again == found


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        (("a", "none"), NotFoundError, "no run none in .*; there are a, d, e, f, s, t"),
        (("a", "a"), ConfigError, "a and a are the same run; name two"),
        (("a", "x/y"), ConfigError, "'x/y' is neither a run's name nor its URI; write NAME, or STORE/runs/NAME"),
        (("a", "../a"), ConfigError, "'../a' is neither a run's name"),
        (("a", "s"), ConfigError, "a and s have different splits .folds.seed 0 and 1.: a tile that one run held out"),
        (("a", "t"), ConfigError, "a and t have different splits .by another version."),
        (("a", "d"), ConfigError, "a and d have other tiles .*train one of them on the tiles of the other"),
        (("a", "e"), ConfigError, "a and e have no finished fold in common .a: 0, 1, 2; e: none.; finish one in both"),
        (("a", "f"), IntegrityError, "its SHA-256 is"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    words: tuple[str, str],
    error: type[SaltrayError],
    told: str,
    tiles: LabelledTiles,
    make_run: MakeRun,
    tmp_path: Path,
) -> None:
    root = open_store(str(tmp_path / "here"))
    for name in ("a", "d", "f"):
        make_run(name, right(tiles), store=root)
    make_run("s", right(tiles), store=root, split=fold_of(tiles)[::-1], seed=1)
    make_run("t", right(tiles), store=root, split=fold_of(tiles)[::-1])
    make_run("e", right(tiles), store=root, folds=())
    home = root.sub("runs/d")
    home.put_json("manifest.json", home.get_json("manifest.json") | {"dataset": "0" * 64})
    root.put("runs/f/fold-1/oof.parquet", root.get("runs/f/fold-2/oof.parquet"))
    with pytest.raises(error, match=told) as caught:
        saltray.compare(*words, store=root.uri, out=tmp_path / "x.png")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.png").exists()


def test_tiles_that_are_gone(tiles: LabelledTiles, make_run: MakeRun, tmp_path: Path) -> None:
    root = open_store(str(tmp_path / "here"))
    make_run("a", right(tiles), store=root)
    make_run("b", right(tiles), store=root)
    root.delete_prefix("datasets")
    with pytest.raises(ConfigError, match=r"no longer packed in .*`saltray train` with their data .* packs them again"):
        saltray.compare("a", "b", store=root.uri, out=tmp_path / "x.png")


def test_the_picture_has_a_place_of_its_own(
    tiles: LabelledTiles, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = open_store(str(tmp_path / "here"))
    make_run("a", right(tiles), store=root)
    make_run("b", right(tiles), store=root)
    for out, told in (
        (f"{root.uri}/runs/a/x.png", "is in the run's own folder; choose another"),
        ("gs://bucket/x.png", "'gs://' is unsupported"),
        (str(tmp_path), "it is a folder; name a file in it"),
    ):
        with pytest.raises(ConfigError, match=told):
            saltray.compare("a", "b", store=root.uri, out=out)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError, match=r"--out compare\.png is in the working directory of this one job"):
        saltray.compare("a", "b", store=root.uri)


def test_a_comparison_is_the_same_each_time(tiles: LabelledTiles, make_run: MakeRun, tmp_path: Path) -> None:
    root = open_store(str(tmp_path / "here"))
    make_run("a", right(tiles), store=root)
    make_run("b", shifted(tiles), store=root)
    one, two = (saltray.compare("a", "b", store=root.uri, out=tmp_path / name) for name in ("1.png", "2.png"))
    assert replace(one, out="") == replace(two, out="")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
