"""Segmentation networks, and the weights that others have trained for them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saltray.models.albunet import AlbuNet as AlbuNet
    from saltray.models.build import build_model as build_model
    from saltray.models.network import Network as Network
    from saltray.models.ternausnet import TernausNet as TernausNet
    from saltray.models.unet import UNet as UNet
    from saltray.models.weights import load_checkpoint as load_checkpoint
    from saltray.models.weights import load_encoder_weights as load_encoder_weights
    from saltray.models.weights import normalise_keys as normalise_keys

_HOME = {
    "AlbuNet": "albunet",
    "Network": "network",
    "TernausNet": "ternausnet",
    "UNet": "unet",
    "build_model": "build",
    "load_checkpoint": "weights",
    "load_encoder_weights": "weights",
    "normalise_keys": "weights",
}
__all__ = [
    "AlbuNet",
    "Network",
    "TernausNet",
    "UNet",
    "build_model",
    "load_checkpoint",
    "load_encoder_weights",
    "normalise_keys",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
