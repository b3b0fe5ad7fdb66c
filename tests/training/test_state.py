"""The state before the first step, and its restoration."""

import copy
import dataclasses
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from saltray.config import Config, OptimConfig
from saltray.training.process_group import ProcessGroup
from saltray.training.state import FitState, initial_model

ConfigMaker = Callable[..., Config]


def test_initial_weights_depend_on_the_seed_alone(make_config: ConfigMaker) -> None:
    torch.manual_seed(5)
    first = initial_model(make_config()).state_dict()
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1)), "the global generator was advanced"
    assert all(torch.equal(value, first[key]) for key, value in initial_model(make_config()).state_dict().items())
    assert not torch.equal(initial_model(make_config(seed=1)).state_dict()["final.weight"], first["final.weight"])


def test_the_given_model_is_trained_and_averaged(make_config: ConfigMaker, single: ProcessGroup) -> None:
    config = make_config(seed=4)
    given = copy.deepcopy(initial_model(config))
    state = FitState.create(make_config(), single, given)
    for key, value in initial_model(config).state_dict().items():
        assert torch.equal(state.model.state_dict()[key], value)
        assert torch.equal(state.ema.state_dict()[key], value)
    assert not {id(p) for p in state.model.parameters()} & {id(p) for p in state.ema.parameters()}
    assert not state.ema.training
    assert not any(p.requires_grad for p in state.ema.parameters())


@pytest.mark.parametrize(("size", "sync", "plain"), [(1, True, True), (2, True, False), (2, False, True)])
def test_batchnorm_is_synchronised_where_there_are_several_ranks(
    make_config: ConfigMaker, size: int, sync: bool, plain: bool
) -> None:
    group = ProcessGroup(rank=0, size=size, device=torch.device("cpu"))
    state = FitState.create(make_config(sync_batchnorm=sync), group)
    for model in (state.model, state.ema):
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        assert norms
        assert all((type(norm) is nn.BatchNorm2d) == plain for norm in norms)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_biases_and_batchnorm_have_no_weight_decay(
    make_config: ConfigMaker, single: ProcessGroup, name: str, kind: type[torch.optim.Optimizer]
) -> None:
    optim = OptimConfig(optimizer=name, lr=0.25, weight_decay=0.125)  # type: ignore[arg-type]
    state = FitState.create(make_config(optim=optim), single)
    assert type(state.optimizer) is kind
    assert {param_group["lr"] for param_group in state.optimizer.param_groups} == {0.25}
    decay = {id(p): group["weight_decay"] for group in state.optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(state.model.parameters()))
    for layer in state.model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert decay[id(layer.weight)] == 0.125
            assert layer.bias is None or decay[id(layer.bias)] == 0
        elif isinstance(layer, nn.BatchNorm2d):
            assert decay[id(layer.weight)] == decay[id(layer.bias)] == 0


def test_state_dict_restores_everything_from_a_file(make_config: ConfigMaker, single: ProcessGroup) -> None:
    config = make_config()
    saved = FitState.create(config, single)
    for p in saved.model.parameters():
        p.grad = torch.ones_like(p)
    saved.optimizer.step()
    saved.epoch, saved.step = 3, 7
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)

    other_seed = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=9))
    restored = FitState.create(other_seed, single)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert (restored.epoch, restored.step) == (3, 7)
    for old, new in ((saved.model, restored.model), (saved.ema, restored.ema)):
        assert all(torch.equal(value, new.state_dict()[key]) for key, value in old.state_dict().items())
    assert not torch.equal(next(restored.model.parameters()), next(restored.ema.parameters()))
    moments = [optimizer.state_dict()["state"][0]["exp_avg"] for optimizer in (saved.optimizer, restored.optimizer)]
    assert torch.equal(*moments)
    assert moments[0].any()


def test_a_snapshot_no_longer_follows_the_training(make_config: ConfigMaker, single: ProcessGroup) -> None:
    state = FitState.create(make_config(), single)
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    kept, live = state.snapshot(), state.state_dict()
    before = [tensor.clone() for tensor in tensors_in(kept)]
    assert len(before) == len(tensors_in(live)) > 10
    assert all(map(torch.equal, before, tensors_in(live)))
    with torch.no_grad():
        for tensor in tensors_in(live):
            tensor.add_(1)
    state.epoch += 1
    assert all(map(torch.equal, before, tensors_in(kept)))
    assert not any(tensor.requires_grad for tensor in tensors_in(kept))
    assert kept["epoch"] == 0


def tensors_in(state: Any) -> list[torch.Tensor]:
    """All tensors of a nested state dict, in order."""
    if isinstance(state, torch.Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def replaced(state: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy with another value at a path; without it, if the value is None."""
    changed = copy.deepcopy(state)
    *before, last = path
    inner: Any = changed
    for key in before:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("model",), None, "KeyError"),
        (("model", "final.weight"), None, "its model has other tensors"),
        (("ema", "final.weight"), torch.zeros(3), "its ema has other tensors"),
        (("ema", "final.weight"), 7, "AttributeError"),
        (("optimizer",), [], "TypeError"),
        (("optimizer", "param_groups", 0, "params"), [0], "its optimizer is another one"),
        (("optimizer", "param_groups", 0, "lr"), None, "its optimizer is another one"),
        (("optimizer", "state", 0), {"exp_avg": torch.zeros(2)}, "moments of other shapes"),
        (("optimizer", "state", 10**6), {"exp_avg": torch.zeros(2)}, "IndexError"),
        (("scaler",), {"scale": 2.0}, "its epoch, step or scale"),
        (("scaler",), 7, "AttributeError"),
        (("epoch",), "1", "its epoch, step or scale"),
        (("step",), -1, "its epoch, step or scale"),
    ],
)
def test_a_state_that_does_not_fit_is_told_before_it_is_loaded(
    make_config: ConfigMaker, single: ProcessGroup, path: tuple[Any, ...], value: Any, fault: str
) -> None:
    state = FitState.create(make_config(), single)
    saved = state.snapshot()
    assert state.misfit(saved) is None
    assert fault in str(state.misfit(replaced(saved, path, value)))


def test_the_scale_of_the_loss_is_restored_where_there_is_one(make_config: ConfigMaker, single: ProcessGroup) -> None:
    scaling, plain = (FitState.create(make_config(), single) for _ in range(2))
    assert not plain.scaler.is_enabled()
    scaling.scaler = GradScaler("cpu", init_scale=8.0)
    saved = scaling.snapshot()
    restored = FitState.create(make_config(), single)
    restored.scaler = GradScaler("cpu")
    restored.load_state_dict(saved)
    assert restored.scaler.get_scale() == 8
    for state, other in ((plain, saved), (restored, plain.snapshot()), (restored, replaced(saved, ("scaler",), None))):
        assert state.misfit(other) is None
        state.load_state_dict(other)
    assert restored.scaler.get_scale() == 8
