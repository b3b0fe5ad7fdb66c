"""What the grey values of image files mean: which value is white, over a whole data set."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from saltray.errors import DataError

GreyValues = NDArray[np.uint8] | NDArray[np.uint16]
"""Grey values as they are in a file: of 8 bits (or fewer, scaled to 8), or of 16."""


MAX_EXCESS = 2
"""How many times the training images' maximum a value may be, and be clipped: more is another range."""


class ScaledImage(NamedTuple):
    """An image with values 0..255."""

    pixels: NDArray[np.uint8]
    """[H, W]."""
    clipped: bool
    """Whether it has values above the range's maximum, which became 255."""


@dataclass(frozen=True, kw_only=True)
class PixelRange:
    """The range of a data set's images: one for all of them, so that equal values stay equal.

    Files of 16 bits often hold 9 to 14, so it is their largest value that becomes 255. It is that of the training
    images, for test images too.
    """

    bits: Literal[8, 16]
    """Bits per pixel of the files. 8-bit images are used as they are."""
    maximum: Annotated[int, Field(ge=255, le=65535)]
    """The value that becomes 255."""

    def __str__(self) -> str:
        if self.bits == 8:
            return "8-bit range"
        return f"{self.maximum.bit_length()}-bit range in 16-bit files, scaled by the data set's maximum {self.maximum}"

    def scale(self, pixels: GreyValues) -> ScaledImage:
        """An image of this range with values 0..255.

        Raises:
            DataError: the image has other bits per pixel, or values far above the range's maximum. The message
                does not name the file.
        """
        if pixels.dtype == np.uint8:
            if self.bits != 8:
                raise DataError(
                    f"an 8-bit image, but the training images have 16 bits ({self.maximum} is white); "
                    "save it with 16 bits and the same range"
                )
            return ScaledImage(pixels.astype(np.uint8, copy=False), clipped=False)
        top = int(pixels.max())
        if self.bits != 16:
            raise DataError("a 16-bit image, but the training images have 8 bits; save it with 8 bits")
        if top > MAX_EXCESS * self.maximum:
            raise DataError(
                f"values up to {top}, but the training images have at most {self.maximum}, which is white; scale it to "
                "their range"
            )
        return ScaledImage(_scale(pixels, self.maximum), clipped=top > self.maximum)


def scale_as_before(pixels: GreyValues) -> ScaledImage:
    """An image with values 0..255, for an ensemble whose manifest has no range: 16-bit images by their full range."""
    return ScaledImage(_scale(pixels, 65535) if pixels.dtype == np.uint16 else pixels.astype(np.uint8), clipped=False)


def range_of(bits: int, largest: int) -> PixelRange:
    """The range of images that all have these bits per pixel, and of whose values this is the largest."""
    if bits == 8:
        return PixelRange(bits=8, maximum=255)
    return PixelRange(bits=16, maximum=max(255, largest))  # values up to 255 in 16-bit files are 8-bit values


def _scale(pixels: GreyValues, maximum: int) -> NDArray[np.uint8]:
    """Values 0..maximum to 0..255, rounded; larger ones become 255."""
    capped = np.minimum(pixels, maximum).astype(np.uint32)
    return ((capped * 255 + maximum // 2) // maximum).astype(np.uint8)
