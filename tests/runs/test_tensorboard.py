"""TensorBoard's files of a run's folds: read back as TensorBoard does."""

import io

import numpy as np
from PIL import Image
from samples import metrics, read_events
from tile_samples import pack_tiles

from saltray.data.tiles import LabelledTiles
from saltray.ensemble.postprocess import Postprocess
from saltray.runs.history import EpochRecord, History
from saltray.runs.layout import events_file
from saltray.runs.out_of_fold import open_out_of_fold
from saltray.runs.tensorboard import GAP, SCALARS, held_out_pictures, write_fold_events
from saltray.storage.base import Store

from .test_out_of_fold import FOLD_OF, put_folds

KEY = events_file("fold-2")


def put_history(store: Store, epochs: int) -> None:
    records = [
        EpochRecord(**vars(metrics(number, 0.125 * number if number != 2 else None)), at=1000.0 + number)
        for number in range(1, epochs + 1)
    ]
    with History(store.sub("fold-2"), records):
        pass


def test_a_file_has_the_scalars_of_each_epoch(store: Store) -> None:
    put_history(store, 3)
    write_fold_events(store, 2)
    assert [entry.key for entry in store.list("tensorboard")] == [KEY]
    events = list(read_events(store.get(KEY)))
    scores = [(event.step, value.simple_value, event.wall_time) for event, value in events if value.tag == "score"]
    assert scores == [(1, 0.125, 1001.0), (3, 0.375, 1003.0)]
    assert [event.step for event, value in events if value.tag == "loss"] == [1, 2, 3]
    assert {value.tag for _, value in events} == set(SCALARS)


def test_it_is_written_whole_and_again_as_the_same_bytes(store: Store) -> None:
    write_fold_events(store, 2)
    assert not store.exists(KEY)  # before the first epoch
    put_history(store, 3)
    write_fold_events(store, 2)
    first = store.get(KEY)
    put_history(store, 4)
    write_fold_events(store, 2)
    assert len(store.get(KEY)) > len(first)
    put_history(store, 3)
    write_fold_events(store, 2)
    assert store.get(KEY) == first


def test_pictures_show_image_label_and_prediction_of_tiles_that_the_fold_held_out(store: Store) -> None:
    draw = np.random.default_rng(0)
    masks = draw.integers(0, 2, (9, 2, 5)).astype(np.uint8)
    tiles = LabelledTiles(tuple("abcdefghi"), draw.integers(0, 256, masks.shape, np.uint8), masks)
    truth = draw.random(masks.shape).astype(np.float16)
    results = put_folds(store, tiles, truth)
    predicted = Postprocess(threshold=0.5).apply(truth, tiles.images)
    hits, union = ((made(masks > 0, predicted)).sum(axis=(1, 2)) for made in (np.logical_and, np.logical_or))
    with open_out_of_fold(store, results, pack_tiles(store.sub("datasets/d"), tiles, rows=4), FOLD_OF) as predictions:
        pictures = held_out_pictures(predictions, Postprocess(threshold=0.5), hits, union)
    assert set(pictures) == {0, 1, 2}
    for fold, some in pictures.items():
        shown = {name.partition("/")[2]: picture for name, picture in some.items()}
        assert set(shown) == {tile for tile, own in zip(tiles.ids, FOLD_OF, strict=True) if own == fold}
        for tile, picture in shown.items():
            row = tiles.ids.index(tile)
            parts = (tiles.images[row], masks[row] * 255, predicted[row] * 255)
            for part, expected in enumerate(parts):
                start = part * (5 + GAP)
                np.testing.assert_array_equal(picture[:, start : start + 5], expected)
    best = max((tile for tile in range(9) if FOLD_OF[tile] == 0), key=lambda tile: hits[tile] / union[tile])
    assert f"best/{tiles.ids[best]}" in pictures[0]


def test_pictures_are_in_the_file(store: Store) -> None:
    put_history(store, 3)
    picture = np.arange(60, dtype=np.uint8).reshape(4, 15)
    write_fold_events(store, 2, {"best/a": picture})
    ((event, value),) = [(event, value) for event, value in read_events(store.get(KEY)) if value.HasField("image")]
    assert (value.tag, event.step, event.wall_time) == ("best/a", 3, 1003.0)
    shown = Image.open(io.BytesIO(value.image.encoded_image_string))
    np.testing.assert_array_equal(np.asarray(shown.convert("L")), picture)
