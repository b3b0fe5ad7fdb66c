"""Decoding of untrusted PNG, TIFF and JPEG files, with limits.

Pillow loads an 81-megapixel PNG of 79 kB with only a warning, so size and mode are checked between reading the header
and decoding. Its `convert("L")` clips 16-bit values silently, so it is never called. What a file is, its first bytes
say, not its name.
"""

import io
import warnings
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from saltray.data.pixel_range import GreyValues
from saltray.errors import DataError, one_line

EXTENSIONS = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
"""Of image files, in lower case."""
MAX_SIDE = 4096
"""Largest height and width, in pixels."""
MAX_BYTES = 64 * 2**20
"""Largest file, in bytes."""

_KINDS: dict[bytes, tuple[str, type[ImageFile.ImageFile]]] = {
    b"\x89PNG\r\n\x1a\n": ("PNG", PngImagePlugin.PngImageFile),
    b"\xff\xd8\xff": ("JPEG", JpegImagePlugin.JpegImageFile),
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), ("TIFF", TiffImagePlugin.TiffImageFile)),
}
_GREY_16 = ("I;16", "I;16B", "I")
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", *_GREY_16)
_EXIF_ORIENTATION = 0x0112
_BITS, _PHOTOMETRIC, _TILE_WIDTH, _TILE_LENGTH, _FORMAT = 258, 262, 322, 323, 339  # of a TIFF
_SIGNED = 2  # of `_FORMAT`
_DEPTH = slice(24, 26)  # a PNG's bits per channel, and its colour type
_DEEP, _DEEP_GREY_ALPHA = (b"\x10\x02", b"\x10\x06"), b"\x10\x04"


# Remarks on a file's metadata, which would be lines between the program's own; what is wrong with pixels is raised. The
# filter is not set around each decoding, because threads share it.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class Mask(NamedTuple):
    """A decoded mask: [H, W] of 0 and 1, and the bits per pixel of its file: 16, or 8 for 8 and fewer."""

    salt: NDArray[np.uint8]
    bits: int


class _Decoded(NamedTuple):
    """An image of one of `_MODES`, as Pillow gives it."""

    kind: str
    mode: str
    pixels: NDArray[Any]
    """[H, W], or [H, W, channels]."""
    palette: NDArray[np.uint8]
    """[N, 3] colours, for mode P."""


def check_bytes(size: int, limit: int = MAX_BYTES) -> None:
    """Raise DataError for a file of more than `limit` bytes."""
    if size > limit:
        raise DataError(f"the file has {size:,} bytes; the limit is {limit:,}: make it smaller")


def decode_image(data: bytes) -> GreyValues:
    """The grey values [H, W] of a tile, as in the file: uint8 for 8 bits and fewer, uint16 for more.

    Three equal channels, a palette of greys and an alpha channel that is the same everywhere mean the same as grey.

    Raises:
        DataError: no image, damaged, too large, or not grey. The message does not name the file.
    """
    decoded = _decode(data)
    if decoded.mode == "P":
        return _grey(decoded.palette[decoded.pixels])
    return _grey(decoded.pixels)


def image_shape(data: bytes) -> tuple[int, int]:
    """Height and width by a file's header, of any size: nothing is decoded.

    Raises:
        DataError: no image, or its header is damaged. The message does not name the file.
    """
    kind, plugin = _plugin(data)
    try:
        with plugin(io.BytesIO(data)) as header:
            return header.height, header.width
    except Exception as error:  # as for `_decode`
        raise _undecodable(kind, error) from error


def decode_mask(data: bytes) -> Mask:
    """A salt mask from an image of 0 and at most one other grey value.

    Raises:
        DataError: no image, damaged, too large, not grey, or of several non-zero values. The message does not name the
            file.
    """
    decoded = _decode(data)
    if decoded.kind == "JPEG":
        raise DataError("a JPEG, which changes the values of a mask; save the original as PNG")
    if decoded.mode == "P":
        grey = _grey(decoded.palette[decoded.pixels])
        if ((grey > 0) != (decoded.pixels > 0)).any():
            raise DataError(
                "the colours of its palette are not black for 0 and another for 1, so salt could be either; "
                "save it as a grey image of 0 and one other value"
            )
    else:
        grey = _grey(decoded.pixels)
    salt = grey > 0
    if (grey[salt] != grey.max()).any():
        some = np.unique(grey)
        shown = ", ".join(map(str, some[:4].tolist())) + (", ..." if len(some) > 4 else "")
        raise DataError(
            f"{len(some)} different values ({shown}); decide which of them are salt, and save it with 0 and one other "
            "value"
        )
    return Mask(salt.astype(np.uint8), bits=8 if grey.dtype == np.uint8 else 16)


def _grey(pixels: NDArray[Any]) -> GreyValues:
    """Grey values from [H, W], or from one or three equal channels and perhaps a constant alpha channel."""
    if pixels.ndim == 3:
        channels = pixels.shape[2]
        if channels in (2, 4) and pixels[..., -1].min() != pixels[..., -1].max():
            raise DataError("its transparency varies; save it as a grey image without an alpha channel")
        grey = pixels[..., 0]
        if channels > 2 and (pixels[..., :3] != grey[..., None]).any():
            raise DataError("its three channels differ; save it as a grey image")
        pixels = np.ascontiguousarray(grey)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.int32:
        low, top = int(pixels.min()), int(pixels.max())
        if low < 0 or top > 65535:
            raise DataError(f"values from {low} to {top}; scale them to 0..65535, and save it as 16-bit grey")
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.uint16, copy=False)


def _decode(data: bytes) -> _Decoded:
    """Decode a file after its header (and a PNG's checksums) are verified."""
    check_bytes(len(data))
    kind, plugin = _plugin(data)
    try:
        with plugin(io.BytesIO(data)) as header:
            _check_header(kind, header)
            if kind == "PNG":
                if data[_DEPTH] == _DEEP_GREY_ALPHA:
                    raise DataError("16-bit grey with an alpha channel; save it without that channel")
                header.verify()  # the checksums of the pixel chunks, which decoding ignores
        with plugin(io.BytesIO(data)) as image:
            if kind == "PNG" and data[_DEPTH] in _DEEP:
                return _Decoded(kind, image.mode, _deep_grey(data, image.mode), np.zeros((0, 3), np.uint8))
            pixels = np.asarray(image)
            palette = np.array(image.getpalette() if image.mode == "P" else [], np.uint8).reshape(-1, 3)
            if image.mode == "P" and pixels.max() >= len(palette):
                raise DataError(f"its palette has no colour {pixels.max()}; save it as a grey image")
            return _Decoded(kind, image.mode, pixels, palette)
    except DataError:
        raise
    except Exception as error:  # a malicious file can raise anything in the decoder
        raise _undecodable(kind, error) from error


def _plugin(data: bytes) -> tuple[str, type[ImageFile.ImageFile]]:
    """The kind of an image file, and what reads it."""
    for start, found in _KINDS.items():
        if data.startswith(start):
            return found
    reason = "it is no PNG, TIFF or JPEG; convert it to PNG" if data else "it is empty; save it again"
    raise DataError(f"cannot be decoded: {reason}")


def _undecodable(kind: str, error: Exception) -> DataError:
    return DataError(f"cannot be decoded as a {kind} ({one_line(error, 200)}); save it again")


def _check_header(kind: str, image: ImageFile.ImageFile) -> None:
    """Refuse what is too large, has several images, or is of a kind whose grey values Pillow would change."""
    width, height = image.size
    if width > MAX_SIDE or height > MAX_SIDE:
        raise DataError(f"{height}x{width} pixels; the limit is {MAX_SIDE}x{MAX_SIDE}: cut it into tiles")
    if image.mode == "F":
        raise DataError("floating-point values; scale them to 0..65535, and save it as 16-bit grey")
    if image.mode not in _MODES:
        raise DataError(f"a {kind} of mode {image.mode}; save it as 8-bit or 16-bit grey")
    if getattr(image, "is_animated", False):
        raise DataError("several images in one file; save each as a file of its own")
    if kind == "JPEG" and image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        raise DataError("a photo that is to be turned when it is shown; save it upright")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image)


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    tags = cast("dict[int, Any]", image.tag_v2)
    if max(tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)) > MAX_SIDE:
        raise DataError(f"a TIFF whose tiles have more than {MAX_SIDE} pixels; save it as PNG")
    if image.mode != "I" and _SIGNED in tags.get(_FORMAT, ()):  # mode I has a sign
        raise DataError("a TIFF of signed 8-bit values, which have no black; save it as unsigned, with 128 added")
    if image.mode in _GREY_16 and tags.get(_PHOTOMETRIC) == 0:
        raise DataError("a TIFF of 16 bits in which 0 is white; save it with 0 as black")
    if image.mode not in _GREY_16 and max(tags.get(_BITS, (1,))) > 8:
        raise DataError("a TIFF of several channels of 16 bits; save it as 16-bit grey")


def _deep_grey(data: bytes, mode: str) -> NDArray[np.uint16]:
    """Grey from a PNG of 16-bit channels, which Pillow reads as 8 bits: once the high bytes, once the low ones."""
    halves = []
    for order in ("16B", "16L"):
        with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
            image.tile = [image.tile[0]._replace(args=f"{mode};{order}")]
            halves.append(_grey(np.asarray(image)).astype(np.uint16))
    return halves[0] * np.uint16(256) + halves[1]
