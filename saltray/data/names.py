"""Names of raw files: which are no part of a data set, and the tile ids that the others have."""

import re
import unicodedata

from saltray.data.images import EXTENSIONS

MAX_ID_BYTES = 251
"""File systems have names of up to 255 bytes, and those of masks end with .png."""
# Files and folders of file managers, notebooks and network drives, and whatever is hidden.
_CLUTTER = re.compile(
    r"(^|/)(\.(?!(?i:png|tiff?|jpe?g)$)[^./]|(__MACOSX|@eaDir|\$RECYCLE\.BIN|System Volume Information|Icon\r)(/|$))"
)
# Texts, and what geographic and desktop programs leave beside an image.
_NOT_TILES = re.compile(r"\.(txt|md|rst|pdf|html?|json|xml|csv|log|db|ini|lnk|url|tfw|pgw|jgw|wld|prj)$", re.IGNORECASE)


def is_clutter(name: str) -> bool:
    """Whether a file or folder is no part of a data set, wherever it is."""
    return _CLUTTER.search(name) is not None


def is_no_tile(name: str) -> bool:
    """Whether a file beside tiles is a text or the like, and to be ignored."""
    return _NOT_TILES.search(name) is not None


def is_image(name: str) -> bool:
    """Whether a file has the extension of an image."""
    return name.lower().endswith(EXTENSIONS)


def tile_id(name: str) -> str:
    """The id of the tile that an image file holds: the stem of its name, as `normal_id` has it."""
    return normal_id(name.rpartition("/")[2].rpartition(".")[0])


def normal_id(text: str) -> str:
    """An id in Unicode's composed form: file systems and spreadsheets write one letter in different ways."""
    return unicodedata.normalize("NFC", text)


def id_problem(name: str) -> str | None:
    """Why a name cannot be a tile's id; None if it can."""
    if not name:
        return "an empty id; every tile needs one"
    if len(name) > 100:
        return f"an id of {len(name)} characters; the limit is 100"
    if not name.isprintable():
        return "an id with control characters; rename it"
    if (size := len(normal_id(name).encode())) > MAX_ID_BYTES:
        return f"an id of {size} bytes; the limit is {MAX_ID_BYTES}, as files are named by it"
    if "/" in name or "\\" in name or name in (".", ".."):
        return "an id that is a path; use names without '/', '\\' and '..'"
    return None
