"""Shim, to be deleted."""

from saltray.storage.keys import check_key  # noqa: F401
from saltray.storage.uri import open_store  # noqa: F401
