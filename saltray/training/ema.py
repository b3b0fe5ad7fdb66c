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
        pairs = list(zip(_tensors(average), _tensors(model), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._others = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, currents = map(list, zip(*self._floats, strict=True))
        torch._foreach_lerp_(averages, currents, 1 - decay)
        for average, current in self._others:
            average.copy_(current)


def _tensors(module: nn.Module) -> list[Tensor]:
    return list(chain(module.parameters(), module.buffers()))
