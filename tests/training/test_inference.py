"""Predicted probabilities: at the tiles' own size, independent of the batch, without side effects on the model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saltray.config import Config, ModelConfig
from saltray.data.augment import enlarge, pad_to
from saltray.errors import ConfigError
from saltray.models.build import build_model
from saltray.models.stem import GreyStem
from saltray.training.inference import evaluating, frozen, predict_both_ways, predict_probabilities, reduce_logits
from saltray.training.precision import resolve_precision
from saltray.training.tile_tensors import TileTensors

ConfigMaker = Callable[..., Config]


class Echo(nn.Module):
    """Logits that are the input."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale


class Ramp(Echo):
    """Logits that grow from left to right, for every tile."""

    def forward(self, images: Tensor) -> Tensor:
        return images * 0 + torch.linspace(-2, 2, images.shape[-1])


PARTS: dict[str, Any] = {"scse": True, "hypercolumn": True, "deep_supervision": True, "decoder_batchnorm": True}
PLAIN: dict[str, Any] = {"deep_supervision": False, "decoder_batchnorm": False}
NETWORKS = {
    "albunet": ModelConfig(num_filters=2, encoder_width=4, **PLAIN),
    "bilinear": ModelConfig(num_filters=2, encoder_width=4, is_deconv=False, **PLAIN),
    "albunet, grey, all parts": ModelConfig(num_filters=2, encoder_width=4, in_channels=1, **PARTS),
    "resnet50": ModelConfig(num_filters=4, encoder_width=4, encoder="resnet50", **PLAIN),
    "vgg11": ModelConfig(architecture="ternausnet", num_filters=2, encoder_width=4, **PLAIN),
    "vgg16_bn, grey, all parts": ModelConfig(
        architecture="ternausnet", encoder="vgg16_bn", num_filters=2, encoder_width=4, in_channels=1, **PARTS
    ),
    "unet": ModelConfig(architecture="unet", num_filters=2),
}


def trained(config: ModelConfig) -> nn.Module:
    """A network in training mode whose BatchNorms, and offset of the stem, are not those of a new one."""
    torch.manual_seed(0)
    model = build_model(config)
    images = torch.rand(8, 1, 64, 64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
            module.momentum = None  # the statistics are those of one pass
        if isinstance(module, GreyStem):
            module.offset.uniform_(-0.3, 0.3)
    with torch.no_grad():
        model.train()(images)
        logits = model.eval()(images)  # those of a new network hardly differ
        final = model.final
        assert isinstance(final, nn.Conv2d)
        assert final.bias is not None
        final.bias.copy_((final.bias - logits.mean()) / logits.std())
        final.weight /= logits.std()
    return model.train()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_frozen_network_predicts_the_same_in_other_operations(name: str) -> None:
    model, images = trained(NETWORKS[name]), torch.randint(0, 256, (3, 50, 60), dtype=torch.uint8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settings: dict[str, Any] = {"input_size": 64, "batch_size": 4}
    exact = predict_probabilities([model], images, precision="fp32", **settings)
    assert exact.std() > 0.01

    fast = frozen(model, "fp32")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == (name != "vgg11")
    result = predict_probabilities([fast], images, precision="fp32", **settings)
    torch.testing.assert_close(result, exact, rtol=0, atol=1e-5)
    if resolve_precision("bf16", torch.device("cpu")) == "bf16":
        half = frozen(model, "bf16")
        assert {module.weight.dtype for module in half.modules() if isinstance(module, nn.Conv2d)} == {torch.bfloat16}
        # A network of random weights magnifies rounding, so another's rounding is the measure.
        usual, rounded = (
            (predict_probabilities([one], images, precision="bf16", **settings) - exact).square().mean().sqrt()
            for one in (model, half)
        )
        assert 0 < rounded < 1.5 * usual

    assert model.training
    assert not fast.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_probabilities_of_networks_are_averaged_batch_by_batch() -> None:
    images = torch.randint(0, 256, (5, 4, 8), dtype=torch.uint8)
    models, calls = [Echo(), Ramp()], []
    for number, model in enumerate(models):
        model.register_forward_hook(lambda _, inputs, __, number=number: calls.append((number, len(inputs[0]))))
    settings: dict[str, Any] = {"input_size": 8, "batch_size": 3, "precision": "fp32", "tta": False}
    both = predict_probabilities(models, images, **settings)
    assert calls == [(0, 3), (1, 3), (0, 2), (1, 2)]
    alone = [predict_probabilities([model], images, **settings) for model in models]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)


def test_each_pixel_keeps_its_place() -> None:
    images = torch.randint(0, 256, (5, 13, 10), dtype=torch.uint8)
    for tta in (False, True):
        result = predict_probabilities([Echo()], images, input_size=32, batch_size=2, precision="fp32", tta=tta)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, (images / 255).sigmoid())


@pytest.mark.parametrize("factor", [2, 3])
def test_enlarged_tiles_are_predicted_at_their_own_size(factor: int) -> None:
    images = torch.randint(0, 256, (3, 13, 10), dtype=torch.uint8)
    shown: list[Tensor] = []

    class Watched(Echo):
        def forward(self, images: Tensor) -> Tensor:
            shown.append(images)
            return 9 * super().forward(images) - 4

    result = predict_probabilities(
        [Watched()], images, input_size=48, resize=factor, batch_size=3, precision="fp32", tta=False
    )
    large = enlarge(images, factor) / 255
    torch.testing.assert_close(shown[0], pad_to(large, 48)[:, None])
    means = F.avg_pool2d((9 * large - 4).sigmoid()[:, None], factor)[:, 0]
    torch.testing.assert_close(result, means)


def test_a_reduced_logit_is_that_of_the_mean_probability() -> None:
    logits = torch.tensor([[[0.0, 2.0], [-3.0, 1.0]]])
    torch.testing.assert_close(reduce_logits(logits, 2), logits.sigmoid().mean(dim=(1, 2), keepdim=True).logit())
    certain = torch.full((1, 2, 2), 90.0)  # its probability rounds to 1
    torch.testing.assert_close(reduce_logits(certain, 2), torch.tensor([[[90.0]]]))
    assert reduce_logits(logits, 1) is logits


def test_tta_averages_probabilities_with_the_mirror_image() -> None:
    images = torch.zeros(1, 4, 8, dtype=torch.uint8)
    ramp = torch.linspace(-2, 2, 8).sigmoid()
    plain = predict_probabilities([Ramp()], images, input_size=8, batch_size=1, precision="fp32", tta=False)
    torch.testing.assert_close(plain[0, 0], ramp)
    averaged = predict_probabilities([Ramp()], images, input_size=8, batch_size=1, precision="fp32")
    torch.testing.assert_close(averaged[0, 0], (ramp + ramp.flip(0)) / 2)


def test_both_ways_are_those_of_one_at_a_time() -> None:
    images = torch.randint(0, 256, (5, 4, 8), dtype=torch.uint8)
    model, calls = Ramp(), []
    model.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    both = predict_both_ways(model, images, input_size=8, batch_size=6, precision="fp32")
    assert calls == [6, 4]  # the mirror images with them, and no third pass
    for result, tta in zip(both, (True, False), strict=True):
        alone = predict_probabilities([model], images, input_size=8, batch_size=6, precision="fp32", tta=tta)
        assert torch.equal(result, alone)
    assert not torch.equal(*both)


def test_result_does_not_depend_on_the_batch_and_the_mode_is_restored(
    make_config: ConfigMaker, tensors: TileTensors
) -> None:
    images = tensors.batch(torch.arange(len(tensors))).images
    model = build_model(make_config().model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    results = [
        predict_probabilities([model.train(mode)], images, input_size=64, batch_size=batch_size, precision="fp32")
        for mode in (True, False)
        for batch_size in (3, 20)
    ]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model.training
    predict_probabilities([model.train()], images[:0], input_size=64, batch_size=2, precision="fp32")
    assert model.training
    assert results[0].shape == images.shape


def test_mode_is_restored_after_an_error() -> None:
    model = Echo()
    with pytest.raises(ConfigError, match=r"13x10 .*train.input_size 8"):
        predict_probabilities(
            [model], torch.zeros(1, 13, 10, dtype=torch.uint8), input_size=8, batch_size=1, precision="fp32"
        )
    assert model.training
    with evaluating(model):
        assert not model.training
        assert torch.is_inference_mode_enabled()
    assert model.training
