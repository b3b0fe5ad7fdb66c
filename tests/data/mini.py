"""A small data set of known tiles with the irregularities of the real one, and each kind of source for it."""

import csv
import io
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saltray.data.tiles import LabelledTiles
from saltray.storage.uri import open_store

Array = NDArray[np.uint8]
HEIGHT, WIDTH = 9, 13
# Of the tiles of `Mini`. Stored manifests have such digests, so they may never change.
DIGEST = "2631f0a656957e1713d5d8512f2be708cd991fd5a84fa58ce1288dd4a11b70b5"


class Mini:
    """Known tiles, and their files."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        self.ids = [f"{number:010x}" for number in sorted(rng.choice(2**39, 12, replace=False).tolist())]
        self.images = rng.integers(1, 256, (12, HEIGHT, WIDTH), dtype=np.uint8)
        self.images[[0, 5]] = 0  # black, hence identical
        self.masks = np.zeros((12, HEIGHT, WIDTH), np.uint8)
        self.masks[1] = rng.integers(0, 2, (HEIGHT, WIDTH))
        self.masks[2, 4:] = 1
        self.masks[3, 4:] = 1  # the mask of 2 again
        self.masks[4, :, :5] = 1  # vertical
        self.masks[6] = 1  # full
        self.masks[7, 0, :10] = 1  # 10 pixels
        self.masks[8, 0, :11] = 1  # 11
        self.test_ids = [f"ffffff{number:04x}" for number in range(5)]
        self.test_images = rng.integers(1, 256, (5, HEIGHT, WIDTH), dtype=np.uint8)
        self.test_images[4] = 0

    def write(self, folder: Path) -> Path:
        """Write the data set in Kaggle's layout."""
        for tile, image, mask in zip(self.ids, self.images, self.masks, strict=True):
            put(folder / f"train/images/{tile}.png", rgb(image))
            put(folder / f"train/masks/{tile}.png", mask.astype(np.uint16) * 65535 if mask.any() else mask)
        for tile, image in zip(self.test_ids, self.test_images, strict=True):
            put(folder / f"test/images/{tile}.png", rgb(image))
        rows = [(tile, slow_rle(mask)) for tile, mask in zip(self.ids, self.masks, strict=True)]
        write_csv(folder / "train.csv", ("id", "rle_mask"), rows[::-1])
        depths = [(tile, str(60 + number)) for number, tile in enumerate([*self.ids, *self.test_ids])]
        write_csv(folder / "depths.csv", ("id", "z"), depths)
        return folder


def deepen(folder: Path, mini: Mini, top: int) -> Path:
    """Training images of 16 bits with values up to `top`."""
    for tile, pixels in zip(mini.ids, mini.images, strict=True):
        put(folder / f"train/images/{tile}.png", np.round(pixels / 255 * top).astype(np.uint16))
    return folder


def check_same(tiles: LabelledTiles, mini: Mini) -> None:
    assert tiles.ids == tuple(mini.ids)
    np.testing.assert_array_equal(tiles.images, mini.images)
    np.testing.assert_array_equal(tiles.masks, mini.masks)


def rgb(grey: Array) -> Array:
    return np.repeat(grey[..., None], 3, axis=2)


def put(path: Path, pixels: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(pixels))


def png(pixels: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def png_header(width: int, height: int, *, bits: int = 8, colour: int = 0, data: bytes = b"") -> bytes:
    """A PNG by hand: signature, header, one chunk of pixels, end."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(data)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def slow_rle(mask: Array) -> str:
    """Run-length encoding pixel by pixel, by the rules of the competition."""
    runs: list[list[int]] = []
    height, width = mask.shape
    for x in range(width):
        for y in range(height):
            number = x * height + y + 1
            if mask[y, x]:
                if runs and sum(runs[-1]) == number:
                    runs[-1][1] += 1
                else:
                    runs.append([number, 1])
    return " ".join(f"{start} {length}" for start, length in runs)


def write_csv(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def zip_folder(folder: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*"), reverse=True):
            archive.write(path, path.relative_to(folder))
    return target


def zip_members(members: Iterable[tuple[str, bytes]], target: Path) -> Path:
    """A zip of members that no folder could hold."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return target


def stems(names: Iterable[str]) -> list[str]:
    return [Path(name).stem for name in names]


def upload(folder: Path, uri: str) -> str:
    store = open_store(uri)
    for path in folder.rglob("*"):
        if path.is_file():
            store.put(str(path.relative_to(folder)), path.read_bytes())
    return uri


def kaggle_zips(folder: Path, target: Path) -> Path:
    zip_folder(folder / "train", target / "train.zip")
    zip_folder(folder / "test", target / "test.zip")
    for name in ("train.csv", "depths.csv"):
        shutil.copy(folder / name, target / name)
    return target


def flat(folder: Path, target: Path) -> Path:
    shutil.copytree(folder / "train", target)
    shutil.copytree(folder / "test", target / "test")
    for name in ("train.csv", "depths.csv"):
        shutil.copy(folder / name, target / name)
    return target


# Each takes the folder of the data set, a folder for other files and an S3 prefix, and returns the URI of the source.
SOURCES: dict[str, Callable[[Path, Path, str], str]] = {
    "folder": lambda folder, _, __: str(folder),
    "file URI": lambda folder, _, __: folder.as_uri(),
    "images and masks on top": lambda folder, target, _: str(flat(folder, target)),
    "zip": lambda folder, target, _: str(zip_folder(folder, target / "data.zip")),
    "train.zip and test.zip": lambda folder, target, _: str(kaggle_zips(folder, target)),
    "competition_data.zip": lambda folder, target, _: str(zip_folder(folder, target / "competition_data.zip").parent),
    "s3": lambda folder, _, bucket: upload(folder, bucket),
    "zip on s3": lambda folder, target, bucket: (
        upload(zip_folder(folder, target / "data.zip").parent, bucket) + "/data.zip"
    ),
    "zips on s3": lambda folder, target, bucket: upload(kaggle_zips(folder, target), bucket),
}
