"""What a served ensemble takes and gives: the checks of a tile's file, and the forms of its mask."""

import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image
from samples import ensemble_manifest

from saltray.data.pixel_range import PixelRange
from saltray.data.rle import decode_rle
from saltray.distributed.served_masks import Form, Masked, Refused, choose_form, encode_answer, read_tile
from saltray.ensemble.manifest import EnsembleManifest

EIGHT = ensemble_manifest(height=4, width=6, pixel_range=PixelRange(bits=8, maximum=255))
DEEP = ensemble_manifest(height=4, width=6, pixel_range=PixelRange(bits=16, maximum=1023))
GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def saved(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind)
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of `side` x `side` black pixels, in a thousandth of the bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    pixels = zlib.compress(bytes((side + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_tile_is_read_as_the_data_set_is(kind: str) -> None:
    pixels = read_tile(saved(GREY, kind), EIGHT)
    assert isinstance(pixels, np.ndarray)
    np.testing.assert_array_equal(pixels, GREY)


def test_sixteen_bits_are_scaled_by_the_range_of_the_training_images() -> None:
    pixels = read_tile(saved(GREY.astype(np.uint16) * 4), DEEP)
    assert isinstance(pixels, np.ndarray)
    assert pixels.max() == round(230 * 4 * 255 / 1023)


@pytest.mark.parametrize(
    ("data", "manifest", "status", "message"),
    [
        (b"", EIGHT, 422, "cannot be decoded: it is empty; save it again"),
        (b"GIF89a", EIGHT, 422, "cannot be decoded: it is no PNG, TIFF or JPEG; convert it to PNG"),
        (saved(GREY)[:40], EIGHT, 422, "save it again"),
        (saved(GREY)[:-20], EIGHT, 422, "save it again"),
        (saved(GREY.T), EIGHT, 422, "6x4 pixels, but the ensemble was trained on 4x6; crop or pad it"),
        (saved(np.stack([GREY, GREY, GREY + 1], axis=2)), EIGHT, 422, "its three channels differ; save it as a grey"),
        (saved(GREY), DEEP, 422, "an 8-bit image, but the training images have 16 bits"),
        (bomb(9000), EIGHT, 413, "9000x9000 pixels; the limit is 4096x4096"),
    ],
)
def test_what_is_no_tile_is_refused(data: bytes, manifest: EnsembleManifest, status: int, message: str) -> None:
    answer = read_tile(data, manifest)
    assert isinstance(answer, Refused)
    assert answer.status == status
    assert message in answer.message


def test_a_file_of_another_size_is_never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saltray.distributed.served_masks.decode_image", lambda data: pytest.fail("decoded"))
    assert isinstance(read_tile(bomb(4096), EIGHT), Refused)


@pytest.mark.parametrize(
    ("asked", "accept", "form"),
    [
        (None, None, "png"),
        (None, "*/*", "png"),
        (None, "application/json", "json"),
        (None, "text/html, text/plain;q=0.5, application/json;q=0.4", "rle"),
        (None, "image/*;q=0.2, Application/JSON", "json"),
        (None, "image/png;q=0, */*", "json"),
        ("rle", "image/png", "rle"),
        ("JSON", None, "json"),
    ],
)
def test_the_form_is_the_one_that_is_asked_for(asked: str | None, accept: str | None, form: str) -> None:
    assert choose_form(asked, accept) == form


@pytest.mark.parametrize(
    ("asked", "accept", "status", "named"),
    [
        (None, "text/html", 406, "image/png, application/json, text/plain"),
        (None, "image/png;q=x", 406, "image/png;q=x"),
        ("gif", "image/png", 422, "format is 'gif'; use png, json or rle"),
    ],
)
def test_another_form_is_refused(asked: str | None, accept: str | None, status: int, named: str) -> None:
    answer = choose_form(asked, accept)
    assert isinstance(answer, Refused)
    assert (answer.status, named in answer.message) == (status, True)


@pytest.mark.parametrize("form", ["png", "json", "rle"])
def test_each_form_holds_the_mask(form: Form) -> None:
    salt = GREY > 100
    body = encode_answer(Masked(ensemble="r1 v3", salt=salt, mean_probability=0.25), form)
    if form == "png":
        found = np.asarray(Image.open(io.BytesIO(body)))
        assert sorted(np.unique(found)) == [0, 255]
        found = found > 0
    elif form == "json":
        record = json.loads(body)
        assert (record["ensemble"], record["salt_pixels"], record["mean_probability"]) == ("r1 v3", 13, 0.25)
        found = decode_rle(record["rle"], record["height"], record["width"])
    else:
        found = decode_rle(body.decode(), 4, 6)
    np.testing.assert_array_equal(found, salt)
