"""Summary of a raw data set: counts and statistics over all of its files."""

from dataclasses import asdict, dataclass
from itertools import chain

from saltray.data.inspection import inspect, pixels_digest
from saltray.data.pixel_range import PixelRange
from saltray.data.source import Source
from saltray.data.statistics import Statistics, count_repeated
from saltray.data.tiles import TileShard
from saltray.data.workers import map_on_cores
from saltray.progress import Observer


@dataclass(frozen=True, kw_only=True)
class DatasetSummary(Statistics):
    """The `Statistics` of the training tiles, and counts over the rest of a data set."""

    test_tiles: int
    pixel_range: PixelRange
    """Of the image files."""
    masks_8bit: int
    """Mask files of 8 bits per pixel, or fewer."""
    masks_16bit: int
    """Mask files of 16 bits per pixel."""
    black_test: int
    """Test images that are 0 everywhere."""
    duplicate_images: int
    """Groups of two or more identical images, training and test images together."""
    depth_range: tuple[float, float] | None
    """Least and greatest z of the training tiles; None if depths.csv has no training tile."""
    notes: tuple[str, ...]
    """What was read in another way than the most usual one, a line each."""


def summarise(uri: str, observer: Observer | None = None) -> DatasetSummary:
    """Read and check every file of a raw data set, and summarise it.

    Args:
        uri: a folder, a zip or s3://bucket/prefix with train/images and train/masks, or images and masks, and
            optionally test/images, train.csv and depths.csv.
        observer: is told how many tiles are read.

    Raises:
        DataError: the data set has problems; `problems` lists them by file.
        StorageError: the source cannot be reached.
    """
    found = inspect(Source(uri), _image_digests, test=True, mapper=map_on_cores, observer=observer)
    depths = [found.depths[tile] for tile in found.index.ids if tile in found.depths]
    digests = chain(chain.from_iterable(found.used), (image.digest for image in found.test))
    return DatasetSummary(
        **asdict(found.statistics),
        test_tiles=len(found.test),
        pixel_range=found.pixel_range,
        masks_8bit=int((found.bits == 8).sum()),
        masks_16bit=int((found.bits == 16).sum()),
        black_test=sum(image.black for image in found.test),
        duplicate_images=count_repeated(digests),
        depth_range=(min(depths), max(depths)) if depths else None,
        notes=found.notes,
    )


def _image_digests(_number: int, shard: TileShard) -> list[bytes]:
    return [pixels_digest(image) for image in shard.images]
