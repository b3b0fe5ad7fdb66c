"""Build a network from its configuration."""

from saltray.config import ModelConfig
from saltray.models.albunet import AlbuNet
from saltray.models.network import Network
from saltray.models.ternausnet import TernausNet
from saltray.models.unet import UNet


def build_model(config: ModelConfig) -> Network:
    """The network that `config` describes, for one class, initialised from torch's global generator.

    `config.weights` is ignored: see `saltray.models.weights.load_weights`.
    """
    if config.architecture == "albunet":
        return AlbuNet(num_filters=config.num_filters, encoder_width=config.encoder_width, is_deconv=config.is_deconv)
    if config.architecture == "unet":
        return UNet(num_filters=config.num_filters, encoder_width=config.encoder_width, is_deconv=config.is_deconv)
    return TernausNet(
        11 if config.architecture == "ternausnet11" else 16,
        num_filters=config.num_filters,
        encoder_width=config.encoder_width,
        is_deconv=config.is_deconv,
    )
