"""Tiles: read, check, pack, split into folds, augment, synthesise, run-length encode."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saltray.data.augment import Augmenter as Augmenter
    from saltray.data.census import Census as Census
    from saltray.data.census import check as check
    from saltray.data.folds import assign_folds as assign_folds
    from saltray.data.folds import check_count as check_count
    from saltray.data.folds import chi2 as chi2
    from saltray.data.folds import fold_balance as fold_balance
    from saltray.data.folds import strata as strata
    from saltray.data.packing import Dataset as Dataset
    from saltray.data.packing import Extent as Extent
    from saltray.data.packing import extent_of as extent_of
    from saltray.data.packing import load_tiles as load_tiles
    from saltray.data.packing import pack as pack
    from saltray.data.raw import list_images as list_images
    from saltray.data.raw import read_image as read_image
    from saltray.data.raw import read_tiles as read_tiles
    from saltray.data.rle import decode_rle as decode_rle
    from saltray.data.rle import encode_rle as encode_rle
    from saltray.data.synthetic import synth as synth
    from saltray.data.tiles import Tiles as Tiles

_HOME = {
    "Augmenter": "augment",
    "Census": "census",
    "Dataset": "packing",
    "Extent": "packing",
    "Tiles": "tiles",
    "assign_folds": "folds",
    "check": "census",
    "check_count": "folds",
    "chi2": "folds",
    "decode_rle": "rle",
    "encode_rle": "rle",
    "extent_of": "packing",
    "fold_balance": "folds",
    "list_images": "raw",
    "load_tiles": "packing",
    "pack": "packing",
    "read_image": "raw",
    "read_tiles": "raw",
    "strata": "folds",
    "synth": "synthetic",
}
__all__ = [
    "Augmenter",
    "Census",
    "Dataset",
    "Extent",
    "Tiles",
    "assign_folds",
    "check",
    "check_count",
    "chi2",
    "decode_rle",
    "encode_rle",
    "extent_of",
    "fold_balance",
    "list_images",
    "load_tiles",
    "pack",
    "read_image",
    "read_tiles",
    "strata",
    "synth",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
