"""An exponential moving average of a network's weights."""

from itertools import chain

import torch
from torch import Tensor, nn


class WeightAverager:
    """Moves `average` towards `model` after each step: parameters and floating buffers; others are copied.

    The decay grows as (1 + step) / (10 + step) up to `decay`, so that the first weights are soon forgotten.

    Args:
        average: the module that holds the average, of the structure of `model`.
        model: the module that is trained.
        decay: largest decay; 0 makes `average` a copy.
    """

    def __init__(self, average: nn.Module, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._floats = _tensors(average, floating=True), _tensors(model, floating=True)
        self._counters = _tensors(average, floating=False), _tensors(model, floating=False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self._floats, 1 - decay)
        if self._counters[0]:
            torch._foreach_copy_(*self._counters)


def _tensors(module: nn.Module, *, floating: bool) -> list[Tensor]:
    return [t for t in chain(module.parameters(), module.buffers()) if t.is_floating_point() == floating]
