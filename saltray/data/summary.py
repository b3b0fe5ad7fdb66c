"""`saltray check`: is a data set sound, and what is in it?"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from saltray.data.inspection import inspect, pixels_digest
from saltray.data.source import Source
from saltray.data.statistics import Statistics, groups, statistics_of


@dataclass(frozen=True, kw_only=True)
class DatasetSummary(Statistics):
    """Everything counted in a sound data set; the counts of `Statistics` are those of the training tiles."""

    test_tiles: int
    masks_8bit: int
    masks_16bit: int
    black_test: int
    """Test images that are 0 everywhere."""
    duplicate_images: int
    """Groups of two or more identical images, of training and test tiles together."""
    depth_range: tuple[float, float] | None
    """Least and greatest z of the training tiles, if depths.csv has any."""

    def rows(self) -> Iterator[tuple[str, str]]:
        """(label, value) of each line to print."""
        yield "training tiles", f"{self.train_tiles:,}"
        yield "test tiles", f"{self.test_tiles:,}"
        yield "tile size", f"{self.height}x{self.width} pixels"
        yield "masks", f"{self.masks_16bit:,} of 16 bits, {self.masks_8bit:,} of 8 bits"
        yield "empty masks", f"{self.empty:,} ({self.empty / self.train_tiles:.2%})"
        yield "full masks", f"{self.full:,}"
        yield "vertical masks", f"{self.vertical:,} (every column all salt or none)"
        yield "masks of 1-10 pixels", f"{self.tiny:,}"
        yield "black images", f"{self.black:,} training, {self.black_test:,} test"
        yield "identical images", f"{self.duplicate_images:,} groups"
        yield "identical masks", f"{self.duplicate_masks:,} groups, empty ones aside"
        yield "mean coverage", f"{self.mean_coverage:.4f}"
        yield "median coverage", "no salt" if self.median_coverage is None else f"{self.median_coverage:.4f} where any"
        yield "pixel mean, std", f"{self.pixel_mean:.4f}, {self.pixel_std:.4f} (of values / 255)"
        if self.depth_range is not None:
            yield "depth", f"{self.depth_range[0]:g} to {self.depth_range[1]:g}, training"


def check(uri: str) -> DatasetSummary:
    """Read every file of a data set and count.

    Args:
        uri: a folder, a zip or s3://bucket/prefix with train/images and train/masks, or images and masks, and
            optionally test/images, train.csv and depths.csv.

    Raises:
        DataError: something is wrong; `problems` lists every fault by file.
        StorageError: the place cannot be reached.
    """
    found = inspect(Source(uri), test=True)
    depths = [found.depths[tile] for tile in found.tiles.ids if tile in found.depths]
    images = [pixels_digest(image) for image in found.tiles.images]
    return DatasetSummary(
        **asdict(statistics_of(found.tiles)),
        test_tiles=len(found.test),
        masks_8bit=int((found.bits == 8).sum()),
        masks_16bit=int((found.bits == 16).sum()),
        black_test=sum(image.black for image in found.test),
        duplicate_images=groups([*images, *(image.digest for image in found.test)]),
        depth_range=(min(depths), max(depths)) if depths else None,
    )
