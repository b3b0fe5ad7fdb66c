"""Exponential moving average of a network's weights."""

from itertools import chain

import torch
from torch import Tensor, nn


class WeightAverager:
    """Averages parameters and floating-point buffers after each step; other buffers are copied.

    The decay is (1 + step) / (10 + step), at most `decay`, so that the initial weights lose their influence quickly.

    Args:
        average: the module that holds the average, with the structure of `model`.
        model: the module that is trained.
        decay: largest decay; with 0 `average` is a copy of `model`.
    """

    def __init__(self, average: nn.Module, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._floats = _tensors(average, floating=True), _tensors(model, floating=True)
        self._counters = _tensors(average, floating=False), _tensors(model, floating=False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after step number `step` (from 0) to the average; from 0 again, the average starts anew."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self._floats, 1 - decay)
        if self._counters[0]:
            torch._foreach_copy_(*self._counters)


def _tensors(module: nn.Module, *, floating: bool) -> list[Tensor]:
    return [t for t in chain(module.parameters(), module.buffers()) if t.is_floating_point() == floating]
