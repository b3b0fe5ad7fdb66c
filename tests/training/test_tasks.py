"""What is learnt: segmentation as before, and hidden patches to fill in."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saltray.config import AugmentConfig, Config, LateLossConfig, OptimConfig, PretrainConfig
from saltray.data.augment import Augmenter, pad_to
from saltray.data.hiding import PatchHider
from saltray.data.tiles import LabelledTiles, Tiles
from saltray.training.engine import fit
from saltray.training.losses import batch_loss
from saltray.training.process_group import ProcessGroup
from saltray.training.schedule import loss_at
from saltray.training.state import FitState
from saltray.training.tasks import Inpainting, Segmentation
from saltray.training.tile_tensors import TileTensors

ConfigMaker = Callable[..., Config]
TwoRanks = dict[str, dict[str, dict[str, object]]]
SETTINGS = PretrainConfig(hidden=0.5, patch=10)


@pytest.fixture
def batch(tensors: TileTensors) -> tuple[Tensor, Tensor, Tensor]:
    return tensors.batch(torch.arange(5))


def test_segmentation_is_of_augmented_tiles_and_their_masks(
    make_config: ConfigMaker, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    config = make_config(seed=4, epochs=9)
    images, masks = Segmentation(config).batch(*batch, 3)
    expected = Augmenter(config.augment, 64, 4)(*batch, 3)
    assert torch.equal(images, expected[0])
    assert torch.equal(masks, expected[1])
    late = replace(config, late_loss=LateLossConfig(after=4, dice=3))
    for epoch, loss in ((3, late.loss), (4, loss_at(4, late))):
        expected_loss = float(batch_loss(images, masks, loss))
        assert float(Segmentation(late).loss(images, masks, epoch)) == pytest.approx(expected_loss)
    assert loss_at(4, late) != late.loss


def test_hidden_pixels_have_the_mean_of_the_visible_ones(
    make_config: ConfigMaker, still: AugmentConfig, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    inputs, targets = Inpainting(make_config(augment=still, seed=2), SETTINGS).batch(*batch, 7)
    hidden = pad_to(PatchHider(0.5, 10, 2)(batch[2], 40, 40, 7), 64)[:, None] > 0
    whole = pad_to(batch[0], 64)[:, None].float() / 255
    assert torch.equal(targets[:, 1:] > 0, hidden)
    assert torch.equal(inputs[~hidden], whole[~hidden])
    for tile, image, pixels, target in zip(inputs, whole, hidden, targets, strict=True):
        fill = image[~pixels].mean()
        assert tile[pixels].tolist() == pytest.approx([float(fill)] * int(pixels.sum()), abs=1e-6)
        torch.testing.assert_close(target[:1], image - fill)


def test_nothing_of_a_hidden_pixel_is_visible(make_config: ConfigMaker, tensors: TileTensors) -> None:
    """Not in the reflected border either, nor where the tile was turned: hidden pixels may have any value."""
    task = Inpainting(
        make_config(augment=AugmentConfig(brightness=0, contrast=0)), PretrainConfig(hidden=0.5, patch=20)
    )
    images, masks, keys = tensors.batch(torch.arange(len(tensors)))
    hidden = PatchHider(0.5, 20, 0)(keys, 40, 40, 0)
    # A pixel at a patch's edge is a mean of both sides: so change hidden pixels with hidden neighbours alone.
    inner = nn.functional.max_pool2d(1.0 - hidden[:, None], 3, stride=1, padding=1)[:, 0] == 0
    changed = torch.where(inner, 255 - images, images)
    assert not torch.equal(changed, images)
    inputs, targets = task.batch(images, masks, keys, 0)
    others, _ = task.batch(changed, masks, keys, 0)
    visible = targets[:, 1:] == 0
    torch.testing.assert_close(others[visible], inputs[visible])
    torch.testing.assert_close(others, inputs)


def test_masks_of_salt_do_not_matter(make_config: ConfigMaker, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    images, masks, keys = batch
    task = Inpainting(make_config(), SETTINGS)
    for one, other in zip(task.batch(images, masks, keys, 0), task.batch(images, 1 - masks, keys, 0), strict=True):
        assert torch.equal(one, other)


def test_the_loss_is_of_hidden_pixels_alone_and_each_tile_counts_the_same(make_config: ConfigMaker) -> None:
    differences = torch.tensor([[[[0.5, 0.25], [9.0, 9.0]]], [[[1.0, 9.0], [9.0, 9.0]]]])
    hidden = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]], [[[1.0, 0.0], [0.0, 0.0]]]])
    outputs = torch.zeros(2, 1, 2, 2, requires_grad=True)
    loss = Inpainting(make_config(), SETTINGS).loss(outputs, torch.cat([differences, hidden], dim=1), 0)
    assert float(loss.detach()) == pytest.approx(((0.5 + 0.25) / 2 + 1.0) / 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    assert torch.equal(outputs.grad != 0, hidden > 0)


def test_a_tile_of_which_no_hidden_pixel_is_in_view_has_no_loss(make_config: ConfigMaker) -> None:
    loss = Inpainting(make_config(), SETTINGS).loss(torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2, 2), 0)
    assert float(loss) == 0


def test_images_without_masks_are_learnt(
    make_config: ConfigMaker, still: AugmentConfig, tiles: LabelledTiles, single: ProcessGroup
) -> None:
    optim = OptimConfig(lr=5e-3, warmup_epochs=1)
    config = make_config(architecture="unet", augment=still, optim=optim, epochs=20, batch_size=2, seed=2)
    images = Tiles(tiles.ids[:2], tiles.select(np.array([1, 2])).images)
    state = FitState.create(config, single)
    history = list(
        fit(state, TileTensors.create(images, single.device), None, config, single, Inpainting(config, SETTINGS))
    )
    assert [(metrics.score, metrics.valid_loss) for metrics in history] == [(None, None)] * 20
    assert history[-1].loss < 0.75 * history[0].loss


def test_two_ranks_pretrain_as_one(two_ranks: TwoRanks) -> None:
    alone, first, second = (two_ranks[place]["inpainting"] for place in ("alone", "0", "1"))
    losses = [[epoch["loss"] for epoch in place["metrics"]] for place in (alone, first, second)]  # type: ignore[attr-defined]
    assert losses[1] == losses[2]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    weights = [place["model"] for place in (alone, first, second)]
    for key, value in weights[0].items():  # type: ignore[attr-defined]
        assert torch.equal(weights[1][key], weights[2][key])  # type: ignore[index]
        # The gradient of L1 is a sign, so that rounding shows more than in the segmentation's.
        scale = 1 + float(value.abs().double().mean())
        assert float((weights[1][key] - value).abs().double().mean()) < 2e-3 * scale, key  # type: ignore[index]
