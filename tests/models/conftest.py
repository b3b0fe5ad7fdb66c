"""Fixtures of the networks' tests."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from saltray.models.albunet import AlbuNet


@pytest.fixture(autouse=True)
def steady_torch() -> Iterator[None]:
    """The same weights each time, and no more threads than the machine has cores to spare."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def scatter() -> Callable[[nn.Module], None]:
    """Draws every tensor so that the signal stays of order 1, and no 0 or 1 hides a bias or statistic that is lost."""

    def move(model: nn.Module) -> None:
        for name, tensor in model.state_dict().items():
            if tensor.ndim == 4:
                nn.init.kaiming_normal_(tensor)
            elif tensor.ndim == 1:
                bounds = (0.5, 1.5) if name.endswith(("weight", "var")) else (-0.2, 0.2)
                tensor.uniform_(*bounds)

    return move


@pytest.fixture
def thin(scatter: Callable[[nn.Module], None]) -> AlbuNet:
    """A thin AlbuNet in eval mode, each of whose tensors matters to the output."""
    model = AlbuNet(num_filters=3, encoder_width=4).eval()
    scatter(model)
    return model
