"""Predicted probabilities: at the tiles' own size, independent of the batch, without side effects on the model."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saltray.config import Config
from saltray.data.augment import enlarge, pad_to
from saltray.errors import ConfigError
from saltray.models.build import build_model
from saltray.training.inference import evaluating, predict_both_ways, predict_probabilities, reduce_logits
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


def test_each_pixel_keeps_its_place() -> None:
    images = torch.randint(0, 256, (5, 13, 10), dtype=torch.uint8)
    for tta in (False, True):
        result = predict_probabilities(Echo(), images, input_size=32, batch_size=2, precision="fp32", tta=tta)
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
        Watched(), images, input_size=48, resize=factor, batch_size=3, precision="fp32", tta=False
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
    plain = predict_probabilities(Ramp(), images, input_size=8, batch_size=1, precision="fp32", tta=False)
    torch.testing.assert_close(plain[0, 0], ramp)
    averaged = predict_probabilities(Ramp(), images, input_size=8, batch_size=1, precision="fp32")
    torch.testing.assert_close(averaged[0, 0], (ramp + ramp.flip(0)) / 2)


def test_both_ways_are_those_of_one_at_a_time() -> None:
    images = torch.randint(0, 256, (5, 4, 8), dtype=torch.uint8)
    model, calls = Ramp(), []
    model.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    both = predict_both_ways(model, images, input_size=8, batch_size=3, precision="fp32")
    assert calls == [3, 3, 2, 2]  # no third pass
    for result, tta in zip(both, (True, False), strict=True):
        alone = predict_probabilities(model, images, input_size=8, batch_size=3, precision="fp32", tta=tta)
        assert torch.equal(result, alone)
    assert not torch.equal(*both)


def test_result_does_not_depend_on_the_batch_and_the_mode_is_restored(
    make_config: ConfigMaker, tensors: TileTensors
) -> None:
    images = tensors.batch(torch.arange(len(tensors))).images
    model = build_model(make_config().model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    results = [
        predict_probabilities(model.train(mode), images, input_size=64, batch_size=batch_size, precision="fp32")
        for mode in (True, False)
        for batch_size in (3, 20)
    ]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model.training
    predict_probabilities(model.train(), images[:0], input_size=64, batch_size=2, precision="fp32")
    assert model.training
    assert results[0].shape == images.shape


def test_mode_is_restored_after_an_error() -> None:
    model = Echo()
    with pytest.raises(ConfigError, match=r"13x10 .*train.input_size 8"):
        predict_probabilities(
            model, torch.zeros(1, 13, 10, dtype=torch.uint8), input_size=8, batch_size=1, precision="fp32"
        )
    assert model.training
    with evaluating(model):
        assert not model.training
        assert torch.is_inference_mode_enabled()
    assert model.training
