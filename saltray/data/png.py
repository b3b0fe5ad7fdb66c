"""Decoding of untrusted PNG files, with limits.

Pillow loads an 81-megapixel PNG of 79 kB with only a warning, so size and mode are checked between reading the header
and decoding. Its `convert("L")` clips 16-bit masks silently, so it is never called.
"""

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import PngImagePlugin

from saltray.errors import DataError

MAX_SIDE = 4096
"""Largest height and width, in pixels."""
MAX_BYTES = 64 * 2**20
"""Largest file, in bytes."""

_GREY_16 = ("I;16", "I")


class Mask(NamedTuple):
    """A decoded mask: [H, W] of 0 and 1, and the bits per pixel (8 or 16) of its file."""

    salt: NDArray[np.uint8]
    bits: int


def check_bytes(size: int) -> None:
    """Raise DataError for a file of more than `MAX_BYTES` bytes."""
    if size > MAX_BYTES:
        raise DataError(f"the file has {size:,} bytes; the limit is {MAX_BYTES:,}")


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """The pixels [H, W] of a grey tile: 8-bit grey, 8-bit RGB of three equal channels, or 16-bit grey scaled to 8.

    Raises:
        DataError: not a PNG, damaged, too large, or not grey. The message does not name the file.
    """
    mode, pixels = _decode(data, ("L", "RGB", *_GREY_16))
    if mode == "RGB":
        grey = pixels[..., 0]
        if (pixels != grey[..., None]).any():
            raise DataError("its three channels differ; save it as a grey image")
        return np.ascontiguousarray(grey)
    if mode in _GREY_16:
        top = int(pixels.max())
        if 0 < top < 256:
            raise DataError(
                f"a 16-bit image whose largest value is {top}; save it with 8 bits, or scale it to the full range"
            )
        return ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return pixels.astype(np.uint8, copy=False)


def decode_mask(data: bytes) -> Mask:
    """A salt mask from an 8- or 16-bit grey PNG of 0 and at most one other value.

    Raises:
        DataError: not a PNG, damaged, too large, not grey, or of several non-zero values. The message does not name the
            file.
    """
    mode, pixels = _decode(data, ("L", *_GREY_16))
    salt = pixels > 0
    if (pixels[salt] != pixels.max()).any():
        some = np.unique(pixels)
        shown = ", ".join(map(str, some[:4].tolist())) + (", ..." if len(some) > 4 else "")
        raise DataError(f"{len(some)} different values ({shown}); save it with 0 and one other value")
    return Mask(salt.astype(np.uint8), bits=8 if mode == "L" else 16)


def _decode(data: bytes, modes: tuple[str, ...]) -> tuple[str, NDArray[Any]]:
    """Mode and pixels of a PNG, after its header and checksums are verified."""
    check_bytes(len(data))
    try:
        with PngImagePlugin.PngImageFile(io.BytesIO(data)) as header:
            width, height = header.size
            mode = header.mode
            if width > MAX_SIDE or height > MAX_SIDE:
                raise DataError(f"{height}x{width} pixels; the limit is {MAX_SIDE}x{MAX_SIDE}")
            if mode not in modes:
                raise DataError(f"a PNG of mode {mode}; save it as 8-bit or 16-bit grey")
            header.verify()  # the checksums of the pixel chunks, which decoding ignores
        with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
            return mode, np.asarray(image)
    except DataError:
        raise
    except Exception as error:  # a malicious file can raise anything in the decoder
        raise DataError(f"cannot be decoded as a PNG ({error or type(error).__name__}); save it again") from error
