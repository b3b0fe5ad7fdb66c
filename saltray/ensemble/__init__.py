"""The fold models as one versioned, immutable object: published, listed, verified, loaded, averaged."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saltray.ensemble.load import Ensemble as Ensemble
    from saltray.ensemble.load import choose_device as choose_device
    from saltray.ensemble.manifest import FoldResult as FoldResult
    from saltray.ensemble.manifest import Manifest as Manifest
    from saltray.ensemble.manifest import provenance as provenance
    from saltray.ensemble.publishing import model_card as model_card
    from saltray.ensemble.publishing import publish as publish
    from saltray.ensemble.threshold import Choice as Choice
    from saltray.ensemble.threshold import choose_threshold as choose_threshold
    from saltray.ensemble.versions import Version as Version
    from saltray.ensemble.versions import list_ensembles as list_ensembles
    from saltray.ensemble.versions import read_manifest as read_manifest
    from saltray.ensemble.versions import resolve as resolve
    from saltray.ensemble.versions import verify as verify

_HOME = {
    "Choice": "threshold",
    "Ensemble": "load",
    "FoldResult": "manifest",
    "Manifest": "manifest",
    "Version": "versions",
    "choose_device": "load",
    "choose_threshold": "threshold",
    "list_ensembles": "versions",
    "provenance": "manifest",
    "model_card": "publishing",
    "publish": "publishing",
    "read_manifest": "versions",
    "resolve": "versions",
    "verify": "versions",
}
__all__ = [
    "Choice",
    "Ensemble",
    "FoldResult",
    "Manifest",
    "Version",
    "choose_device",
    "choose_threshold",
    "list_ensembles",
    "model_card",
    "provenance",
    "publish",
    "read_manifest",
    "resolve",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
