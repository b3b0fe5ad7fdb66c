"""The state before the first step."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from saltray.config import Config, OptimConfig
from saltray.training.precision import resolve_precision
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState, initial_model

ConfigMaker = Callable[..., Config]


def test_the_first_weights_follow_from_the_seed_alone(thin: ConfigMaker) -> None:
    torch.manual_seed(5)
    first = initial_model(thin()).state_dict()
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1)), "the global generator was moved"
    assert all(torch.equal(value, first[key]) for key, value in initial_model(thin()).state_dict().items())
    assert not torch.equal(initial_model(thin(seed=1)).state_dict()["final.weight"], first["final.weight"])


def test_the_given_model_is_trained_and_averaged(thin: ConfigMaker, single: ProcessGroup) -> None:
    config = thin(seed=4)
    given = copy.deepcopy(initial_model(config))
    state = FitState.create(thin(), single, given)
    for key, value in initial_model(config).state_dict().items():
        assert torch.equal(state.model.state_dict()[key], value)
        assert torch.equal(state.ema.state_dict()[key], value)
    assert not {id(p) for p in state.model.parameters()} & {id(p) for p in state.ema.parameters()}


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_vectors_are_exempt_from_the_decay(
    thin: ConfigMaker, single: ProcessGroup, name: str, kind: type[torch.optim.Optimizer]
) -> None:
    optim = OptimConfig(optimizer=name, lr=0.25, weight_decay=0.125)  # type: ignore[arg-type]
    state = FitState.create(thin(optim=optim), single)
    assert type(state.optimizer) is kind
    decay = {id(p): g["weight_decay"] for g in state.optimizer.param_groups for p in g["params"]}
    assert len(decay) == len(list(state.model.parameters()))
    for layer in state.model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert decay[id(layer.weight)] == 0.125
            assert layer.bias is None or decay[id(layer.bias)] == 0
        elif isinstance(layer, nn.BatchNorm2d):
            assert decay[id(layer.weight)] == decay[id(layer.bias)] == 0


def test_precision_is_bf16_only_where_there_are_instructions_for_it(caplog: pytest.LogCaptureFixture) -> None:
    cpu = torch.device("cpu")
    resolve_precision.cache_clear()
    assert resolve_precision("fp32", cpu) == "fp32"
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    for _ in range(2):
        assert resolve_precision("bf16", cpu) == ("bf16" if native else "fp32")
    assert len(caplog.messages) == (0 if native else 1)
