"""The base class on its own, and what holds for every architecture that a configuration can name."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from saltray.config import ENCODERS, ModelConfig
from saltray.errors import ModelError
from saltray.models.build import build_model
from saltray.models.network import Features, Network, Output
from saltray.models.parts import DecoderParts
from saltray.models.stem import GREY_MEAN, GREY_STD, IMAGENET_MEAN, IMAGENET_STD, GreyStem
from saltray.models.unet import UNet

PARTS = ("decoder_batchnorm", "scse", "hypercolumn", "deep_supervision")

PAIRS = [pair for pair in itertools.product(ENCODERS, PARTS) if pair != ("unet", "decoder_batchnorm")]


def configs(*, together: bool) -> Iterator[tuple[str, ModelConfig]]:
    """Every architecture, encoder and form of upsampling, plain and with each part of the decoder, or with all."""
    for architecture, encoders in ENCODERS.items():
        parts = [part for name, part in PAIRS if name == architecture]
        sets = [(), tuple(parts)] if together else [(), *((part,) for part in parts)]
        for encoder, is_deconv, chosen in itertools.product(encoders or [None], (True, False), sets):
            config = ModelConfig(
                architecture=architecture,  # type: ignore[arg-type]
                encoder=encoder,
                num_filters=2,
                encoder_width=3,
                in_channels=1 if chosen else 3,
                is_deconv=is_deconv,
                **{part: part in chosen for part in PARTS},  # type: ignore[arg-type]
            )
            kind = "deconv" if is_deconv else "bilinear"
            yield f"{architecture}-{encoder}-{kind}-{'+'.join(chosen) or 'plain'}", config


ALL = dict(configs(together=False))
FEW = {
    name: config
    for name, config in configs(together=True)
    if config.encoder in (None, "resnet18", "vgg11") or (config.encoder, config.is_deconv) == ("resnet50", True)
}


class Identity(Network):
    """Returns its normalised input as scores."""

    multiple = 8

    def __init__(self, num_classes: int = 1, in_channels: int = 3) -> None:
        super().__init__(num_classes, in_channels)
        self.add_heads(1, [1], DecoderParts())
        self.final = nn.Identity()

    def features(self, x: Tensor) -> Features:
        return Features(x, (x,))


@pytest.fixture(params=FEW.values(), ids=list(FEW))
def model(request: pytest.FixtureRequest) -> Network:
    return build_model(request.param).eval()


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("channels", [1, 3])
def test_input_is_normalised_as_for_imagenet(channels: int) -> None:
    images = torch.rand(2, channels, 8, 16)
    result = Identity(num_classes=1)(images)
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        expected = (images[:, channel if channels == 3 else 0] - mean) / std
        torch.testing.assert_close(result[:, channel], expected)


def test_one_channel_is_normalised_by_itself() -> None:
    images = torch.rand(2, 1, 8, 16)
    result = Identity(in_channels=1)(images)
    torch.testing.assert_close(result, (images - GREY_MEAN[0]) / GREY_STD[0])


def test_a_network_for_grey_refuses_rgb() -> None:
    with pytest.raises(ModelError, match=r"3 channels, but this Identity takes one \(in_channels is 1\); give grey"):
        Identity(in_channels=1)(torch.zeros(1, 3, 8, 8))


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(ModelError, match="in_channels is 2; use 1 "):
        Identity(in_channels=2)


def test_several_classes_give_log_probabilities() -> None:
    images = torch.rand(2, 3, 8, 8)
    scores = Identity(num_classes=1)(images)
    probabilities = Identity(num_classes=3)(images).exp()
    torch.testing.assert_close(probabilities, scores.exp() / scores.exp().sum(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 64, 64), r"shape \[1, 64, 64\]; expected \[B, 1, H, W\] or \[B, 3, H, W\]"),
        (torch.zeros(1, 2, 64, 64), r"shape \[1, 2, 64, 64\]; expected"),
        (torch.zeros(1, 1, 64, 64, dtype=torch.uint8), "dtype torch.uint8; expected floats in 0..1.* / 255"),
        (torch.zeros(1, 1, 12, 64), "12x64; Identity needs multiples of 8: pad it to 16x64"),
        (torch.zeros(1, 1, 64, 31), "64x31; Identity needs multiples of 8: pad it to 64x32"),
    ],
)
def test_unsupported_inputs_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Identity(num_classes=1)(images)


def loss_of(output: Tensor | Output) -> Tensor:
    """A loss that all of an output has a part in."""
    tensors = (output,) if isinstance(output, Tensor) else (output.logits, *output.sides, output.has_salt)
    return torch.stack([tensor.square().mean() for tensor in tensors]).sum()


@pytest.mark.parametrize("config", ALL.values(), ids=list(ALL))
def test_every_combination_gives_the_shapes_of_its_input(config: ModelConfig) -> None:
    """On the meta device, where tensors have shapes and no values."""
    with torch.device("meta"):
        model = build_model(config).train()
        height, width = model.multiple, 3 * model.multiple
        stems = [module for module in model.modules() if isinstance(module, GreyStem)]
        if config.in_channels == 1:
            assert len(stems) == 1
            with pytest.raises(ModelError, match="takes one"):
                model(torch.empty(2, 3, height, width))
        else:
            assert not stems
        for channels in (1, 3)[: 1 if config.in_channels == 1 else 2]:
            images, shape = torch.empty(2, channels, height, width), (2, 1, height, width)
            output = model(images)
            if config.deep_supervision:
                assert output.logits.shape == shape
                assert len(output.sides) == (3 if config.architecture == "unet" else 4)
                assert {side.shape for side in output.sides} == {shape}
                assert output.has_salt.shape == (2,)
                output = model.eval()(images)
            assert output.shape == shape


def test_output_has_the_size_of_the_input(model: Network) -> None:
    height, width = model.multiple, 3 * model.multiple
    with torch.no_grad():
        assert model(torch.rand(2, 1, height, width)).shape == (2, 1, height, width)


def test_half_a_multiple_is_refused(model: Network) -> None:
    side = model.multiple
    with pytest.raises(ModelError, match=f"multiples of {side}: pad it to {2 * side}x{side}"):
        model(torch.rand(1, 1, side + side // 2, side))


def test_every_parameter_gets_a_gradient(model: Network, randomise: Callable[[nn.Module], None]) -> None:
    randomise(model)  # at first a part is the identity, and stops the gradient to some of its own parameters
    loss_of(model.train()(torch.rand(4, 1, 64, 64))).backward()  # type: ignore[no-untyped-call]
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    heads = [p.grad for name, p in model.named_parameters() if name.startswith(("hypercolumn", "supervision", "final"))]
    assert all(grad is not None and grad.any() for grad in heads)


@pytest.mark.parametrize("static_graph", [True, False])
def test_ddp_takes_a_second_step(model: Network, process_group: None, static_graph: bool) -> None:
    ddp = DistributedDataParallel(model.train(), find_unused_parameters=False, static_graph=static_graph)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(2):  # the second forward pass raises if a parameter had no gradient in the first
        optimizer.zero_grad()
        loss_of(ddp(torch.rand(2, 1, 64, 64))).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(("architecture", "part"), PAIRS)
def test_each_part_starts_without_effect_and_can_have_one(
    architecture: str, part: str, randomise: Callable[[nn.Module], None]
) -> None:
    widths: dict[str, Any] = {"num_filters": 3, "encoder_width": 4}
    config = ModelConfig(architecture=architecture, **widths, **dict.fromkeys(PARTS, False))  # type: ignore[arg-type]
    plain, model = build_model(config), build_model(replace(config, **{part: True}))  # type: ignore[arg-type]
    randomise(plain)
    added = set(model.load_state_dict(plain.state_dict(), strict=False).missing_keys)
    new = model.state_dict().keys() - plain.state_dict().keys()
    assert added == {key for key in new if not key.endswith("num_batches_tracked")}
    assert added
    images = torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        expected = plain.eval()(images)
        assert expected.std() > 0.05
        torch.testing.assert_close(model.eval()(images), expected, rtol=1e-3, atol=1e-3)
        randomise(model)
        model.load_state_dict(plain.state_dict(), strict=False)
        if part == "deep_supervision":
            assert torch.equal(model(images), expected)
            assert not torch.equal(model.train()(images).has_salt, model(1 - images).has_salt)
        else:
            assert (model(images) - expected).abs().max() > 0.01


def test_stages_double_in_size_up_to_the_input_and_the_bottom_is_the_encoder_s_last(model: Network) -> None:
    x = torch.rand(2, model.in_channels, 64, 128)
    with torch.no_grad():
        bottom, stages = model.features(x)
        assert torch.equal(bottom, model.encoder(x)[-1])
    sizes = [(64 >> level, 128 >> level) for level in reversed(range(len(stages)))]
    assert [tuple(stage.shape[2:]) for stage in stages] == sizes


@pytest.mark.parametrize("is_deconv", [True, False])
@pytest.mark.parametrize("architecture", ["albunet", "ternausnet"])
def test_decoder_batchnorm_follows_every_convolution_but_the_last(
    architecture: Literal["albunet", "ternausnet"], is_deconv: bool
) -> None:
    config = ModelConfig(architecture=architecture, is_deconv=is_deconv, decoder_batchnorm=True, hypercolumn=True)
    with torch.device("meta"):
        modules = [module for name, module in build_model(config).named_modules() if not name.startswith("encoder.")]
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and m.kernel_size > (1, 1)]
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
    assert [norm.num_features for norm in norms] == [convolution.out_channels for convolution in convolutions]


def test_several_classes_give_log_probabilities_at_every_stage() -> None:
    model = UNet(num_classes=3, num_filters=2, encoder_width=3, parts=DecoderParts(deep_supervision=True)).train()
    output = model(torch.rand(2, 1, 16, 16))
    assert isinstance(output, Output)
    for scores in (output.logits, *output.sides):
        torch.testing.assert_close(scores.exp().sum(1), torch.ones(2, 16, 16))


OVERFITTED = {
    "albunet-resnet18": ModelConfig(encoder="resnet18", decoder_batchnorm=True, scse=True),
    "albunet-resnet34": ModelConfig(in_channels=1),
    "albunet-resnet50": ModelConfig(encoder="resnet50", in_channels=1, deep_supervision=True, scse=True),
    "ternausnet-vgg11": ModelConfig(architecture="ternausnet", hypercolumn=True),
    "ternausnet-vgg16_bn": ModelConfig(architecture="ternausnet", encoder="vgg16_bn", deep_supervision=True),
    "unet": ModelConfig(architecture="unet", scse=True, hypercolumn=True, in_channels=1),
}


@pytest.mark.parametrize("config", OVERFITTED.values(), ids=list(OVERFITTED))
def test_a_network_learns_one_tile_by_heart(config: ModelConfig) -> None:
    model = build_model(replace(config, num_filters=8, encoder_width=4)).train()
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    mask = ((rows - 20) ** 2 + (columns - 40) ** 2 < 15**2).float()[None, None]
    masks = torch.cat([mask, torch.zeros_like(mask)])
    images = 0.5 * torch.rand(2, 1, 64, 64) + 0.5 * masks
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        output = model(images)
        pairs = [(output, masks)]
        if isinstance(output, Output):
            pairs = [(scores, masks) for scores in (output.logits, *output.sides)]
            pairs.append((output.has_salt, masks.amax((1, 2, 3))))
        losses = [F.binary_cross_entropy_with_logits(*pair) for pair in pairs]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    share = masks.mean().item()
    constant = -share * math.log(share) - (1 - share) * math.log(1 - share)  # the least loss of a constant prediction
    assert losses[0].item() < 0.5 * constant


def test_state_dict_holds_each_tensor_once_and_survives_safetensors(model: Network, tmp_path: Path) -> None:
    state = model.state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")  # refuses shared tensors
    loaded = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert {key: tensor.shape for key, tensor in loaded.items()} == {key: t.shape for key, t in state.items()}
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert not {"mean", "std"} & set(state)
