"""Which folder of a source is the data set's: the one that has train/ or test/, often alone in another."""

from collections.abc import Callable

from saltray.data.problems import and_more
from saltray.errors import DataError

FOLDERS = frozenset({"train", "test", "images", "masks"})
"""Those that a data set may have on top, in lower case."""
_MAX_CANDIDATES = 20
"""Folders that are searched for a data set: there are more where none was meant."""
_MAX_WRAPPERS = 3
"""Folders within each other around a data set."""

SubFolders = Callable[[str], list[str]]
"""Gives the names of the sub-folders of a folder, whose own name is empty or ends with a slash."""


def has_tiles(folders: list[str]) -> bool:
    """Whether folders of these names make what they are in a data set."""
    return any(name.lower() in FOLDERS for name in folders)


def find_root(folders: SubFolders, has_images: Callable[[str], bool], where: str) -> str:
    """The folder that has the data set, such as "competition_data/"; empty if it is the top level, or none is found.

    Args:
        folders: of the source.
        has_images: whether images are directly in a folder.
        where: the source, for messages.

    Raises:
        DataError: several folders have one.
    """
    root = ""
    for _ in range(_MAX_WRAPPERS):
        names = folders(root)
        if not 0 < len(names) <= _MAX_CANDIDATES or has_tiles(names):
            break
        found = [name for name in names if has_tiles(folders(f"{root}{name}/"))]
        if len(found) > 1:
            raise DataError(f"{where} has several data sets, in {and_more(found)}; name one of them")
        if not found and (len(names) > 1 or has_images(root)):
            break
        root += f"{(found or names)[0]}/"
    return root


def unread_folders(folders: SubFolders, root: str) -> list[str]:
    """Folders beside train/ and test/ that have tiles too, such as valid/."""
    names = folders(root)
    others = [name for name in names if name.lower() not in FOLDERS]
    if not has_tiles(names) or len(others) > _MAX_CANDIDATES:
        return []
    return [name for name in others if has_tiles(folders(f"{root}{name}/"))]
