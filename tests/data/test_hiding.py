"""Hidden patches: how many, where, and of what they are a function."""

import re

import pytest
import torch

from saltray.data.hiding import PatchHider
from saltray.data.random import tile_keys
from saltray.errors import ConfigError

KEYS = tile_keys(f"tile{number}" for number in range(6))


@pytest.mark.parametrize(
    ("height", "width", "patch", "share"), [(101, 101, 16, 0.6), (40, 24, 8, 0.25), (9, 13, 4, 0.5)]
)
def test_the_share_of_whole_patches_is_hidden_in_every_tile(height: int, width: int, patch: int, share: float) -> None:
    hider = PatchHider(share, patch, seed=0)
    hidden = hider(KEYS, height, width, epoch=3)
    assert (hidden.shape, hidden.dtype) == ((6, height, width), torch.uint8)
    rows, columns = -(-height // patch), -(-width // patch)
    assert hider.count(height, width) == round(share * rows * columns)
    for tile in hidden:
        cells = [cell for band in tile.split(patch) for cell in band.split(patch, dim=1)]
        assert len(cells) == rows * columns
        assert all(cell.min() == cell.max() for cell in cells)
        assert sum(int(cell.max()) for cell in cells) == hider.count(height, width)


def test_patches_are_a_function_of_tile_seed_and_epoch() -> None:
    hider = PatchHider(0.5, 8, seed=1)
    hidden = hider(KEYS, 64, 64, 0)
    assert torch.equal(hider(KEYS, 64, 64, 0), hidden)
    assert torch.equal(hider(KEYS[[4, 2]], 64, 64, 0), hidden[[4, 2]])  # whatever the batch
    others = [hider(KEYS, 64, 64, 1), PatchHider(0.5, 8, seed=2)(KEYS, 64, 64, 0), hidden.roll(1, 0)]
    for other in others:
        assert not any(torch.equal(one, two) for one, two in zip(hidden, other, strict=True))


def test_every_patch_has_its_turn() -> None:
    hider = PatchHider(0.25, 8, seed=0)
    often = torch.stack([hider(KEYS, 32, 32, epoch)[:, ::8, ::8] for epoch in range(100)]).float().mean(dim=(0, 1))
    assert float((often - 0.25).abs().max()) < 0.08  # 4.5 standard deviations of 600 draws


@pytest.mark.parametrize(
    ("share", "patch", "told"), [(0.6, 128, "1 of the 1 patches"), (0.1, 64, "0 of the 4 patches")]
)
def test_a_share_that_hides_none_or_all_is_refused(share: float, patch: int, told: str) -> None:
    with pytest.raises(
        ConfigError, match=re.escape(f"pretrain.hidden {share} hides {told} of {patch} pixels in a tile")
    ):
        PatchHider(share, patch, 0).count(101, 101)
