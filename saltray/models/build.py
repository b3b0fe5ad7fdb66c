"""Build a network from its configuration."""

from collections.abc import Callable
from functools import partial

from saltray.config import ModelConfig
from saltray.models.albunet import AlbuNet
from saltray.models.network import Network
from saltray.models.parts import DecoderParts
from saltray.models.ternausnet import TernausNet
from saltray.models.unet import UNet


def build_model(config: ModelConfig) -> Network:
    """The network that `config` describes, for one class, initialised from torch's global generator.

    `config.weights` is ignored: see `saltray.models.weights.load_weights`.

    Raises:
        ConfigError: the architecture cannot have the encoder.
    """
    config.check_fit()
    build: Callable[..., Network] = {"albunet": AlbuNet, "ternausnet": TernausNet, "unet": UNet}[config.architecture]
    if config.backbone is not None:
        build = partial(build, encoder=config.backbone)
    return build(
        num_filters=config.num_filters,
        encoder_width=config.encoder_width,
        in_channels=config.in_channels,
        is_deconv=config.is_deconv,
        parts=DecoderParts(
            batchnorm=config.decoder_batchnorm and config.architecture != "unet",
            scse=config.scse,
            hypercolumn=config.hypercolumn,
            deep_supervision=config.deep_supervision,
        ),
    )
