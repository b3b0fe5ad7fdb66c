"""What a served ensemble takes and gives: a file of one tile, its mask, and the forms that it is sent in."""

import io
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saltray.data.images import MAX_SIDE, decode_image, image_shape
from saltray.data.pixel_range import scale_as_before
from saltray.data.rle import encode_rle
from saltray.ensemble.manifest import EnsembleManifest
from saltray.errors import DataError

MAX_BODY = 4 * 2**20
"""Largest body of a request, in bytes: a tile of a megapixel with four channels, not compressed."""

Form = Literal["png", "json", "rle"]
MEDIA_TYPES: dict[Form, str] = {"png": "image/png", "json": "application/json", "rle": "text/plain"}
"""The first is given to those who take anything."""


@dataclass(frozen=True)
class Refused:
    """A request that cannot be answered with a mask."""

    status: int
    """Of HTTP."""
    message: str
    """What happened, the value and the remedy, in one line."""


@dataclass(frozen=True, kw_only=True)
class Masked:
    """The prediction of a tile."""

    ensemble: str
    """Name and version."""
    salt: NDArray[np.bool_]
    """[H, W], true where there is salt."""
    mean_probability: float
    """Over all pixels, before any post-processing."""


def read_tile(data: bytes, manifest: EnsembleManifest) -> NDArray[np.uint8] | Refused:
    """The pixels [H, W] of a file, of the size and the range of an ensemble's tiles.

    Only a file whose header tells that size is decoded, so that a small file cannot fill the memory.
    """
    try:
        height, width = image_shape(data)
        if max(height, width) > MAX_SIDE:
            message = f"{height}x{width} pixels; the limit is {MAX_SIDE}x{MAX_SIDE}"
            return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        if (height, width) != (manifest.height, manifest.width):
            tile = f"{manifest.height}x{manifest.width}"
            message = f"{height}x{width} pixels, but the ensemble was trained on {tile}; crop or pad it"
            return Refused(HTTPStatus.UNPROCESSABLE_ENTITY, message)
        pixels, scale = decode_image(data), manifest.pixel_range
        return (scale_as_before(pixels) if scale is None else scale.scale(pixels)).pixels
    except DataError as error:
        return Refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))


def too_large(size: int | None = None) -> Refused:
    """What to say to a body that is larger than `MAX_BODY`."""
    found = "the body has more bytes than that" if size is None else f"the body has {size:,} bytes"
    message = f"{found}; the limit is {MAX_BODY:,}: send one tile, as PNG"
    return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


def choose_form(asked: str | None, accept: str | None) -> Form | Refused:
    """The form to answer in.

    Args:
        asked: value of `?format=`, which counts before the header.
        accept: the Accept header.
    """
    if asked is not None:
        for form in get_args(Form):
            if asked.lower() == form:
                return form  # type: ignore[no-any-return]
        return Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"format is {asked[:40]!r}; use png, json or rle")
    weights = _weights(accept or "*/*")
    best = max(MEDIA_TYPES, key=lambda form: _weight(weights, MEDIA_TYPES[form]))  # the first of equals
    if _weight(weights, MEDIA_TYPES[best]) > 0:
        return best
    offered = ", ".join(MEDIA_TYPES.values())
    return Refused(HTTPStatus.NOT_ACCEPTABLE, f"Accept is {(accept or '')[:80]!r}; accept one of {offered}")


def _weights(accept: str) -> dict[str, float]:
    """The weight of each media range of an Accept header (RFC 9110, 12.5.1); one that is no number is 0."""
    weights = {}
    for part in accept.split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        given = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        try:
            weights[kind] = float(given)
        except ValueError:
            weights[kind] = 0.0
    return weights


def _weight(weights: dict[str, float], media_type: str) -> float:
    """Of a media type, by the most specific range that has it."""
    ranges = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
    return next((weights[each] for each in ranges if each in weights), 0.0)


def encode_answer(masked: Masked, form: Form) -> bytes:
    """The body of the answer: a PNG of 0 and 255, a JSON object, or the runs alone."""
    if form == "png":
        file = io.BytesIO()
        Image.fromarray(masked.salt * np.uint8(255)).save(file, format="PNG")
        return file.getvalue()
    rle = encode_rle(masked.salt)
    if form == "rle":
        return rle.encode()
    height, width = masked.salt.shape
    record = {
        "ensemble": masked.ensemble,
        "height": height,
        "width": width,
        "salt_pixels": int(masked.salt.sum()),
        "mean_probability": round(masked.mean_probability, 6),
        "rle": rle,
    }
    return json.dumps(record).encode()
