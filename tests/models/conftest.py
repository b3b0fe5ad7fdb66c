"""Fixtures of the models' tests."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from saltray.models.albunet import AlbuNet


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """The same weights each time, on one thread: several slow small tensors down on a shared machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def randomise() -> Callable[[nn.Module], None]:
    """Draws every tensor of a model, so that a bias or statistic that is ignored shows; activations stay of order 1."""

    def randomise(model: nn.Module) -> None:
        for name, tensor in model.state_dict().items():
            if tensor.ndim == 4:
                nn.init.kaiming_normal_(tensor)
            elif tensor.ndim == 1:
                bounds = (0.5, 1.5) if name.endswith(("weight", "var")) else (-0.2, 0.2)
                tensor.uniform_(*bounds)

    return randomise


@pytest.fixture
def small_albunet(randomise: Callable[[nn.Module], None]) -> AlbuNet:
    """An AlbuNet of few channels in eval mode, each of whose tensors affects the output."""
    model = AlbuNet(num_filters=3, encoder_width=4).eval()
    randomise(model)
    return model


@pytest.fixture
def outputs() -> Callable[[nn.Module], Tensor]:
    """The output of a model in eval mode for one fixed image."""

    def outputs(model: nn.Module) -> Tensor:
        images = torch.linspace(0, 1, 64 * 64).view(1, 1, 64, 64)
        with torch.no_grad():
            result: Tensor = model.eval()(images)
        return result

    return outputs
