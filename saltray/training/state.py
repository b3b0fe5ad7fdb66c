"""The state of one fold's training: everything that changes from step to step."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler

from saltray.config import Config, OptimConfig
from saltray.models.build import build_model
from saltray.models.network import Network
from saltray.training.norm import convert_sync_batchnorm
from saltray.training.precision import make_scaler
from saltray.training.process_group import ProcessGroup

_SCALER_TYPES = {key: type(value) for key, value in GradScaler("cpu").state_dict().items()}


@dataclass(eq=False)
class FitState:
    """The network, its moving average, the optimizer, and the number of finished epochs and steps.

    Everything else (order of the tiles, augmentation, learning rate) is a function of the configuration, the epoch and
    the step, so resuming from this state gives, bit for bit, the results of an uninterrupted run.
    """

    model: nn.Module
    """The network that is trained."""
    ema: nn.Module
    """Exponential moving average of `model`, in eval mode: the network that is evaluated and published."""
    optimizer: torch.optim.Optimizer
    """The optimizer of `model`."""
    epoch: int = 0
    """Number of finished epochs."""
    step: int = 0
    """Number of finished steps, over all epochs."""
    scaler: GradScaler = field(default_factory=partial(GradScaler, "cpu", enabled=False))
    """Scales the loss where the device computes in float16; without effect by default."""

    @classmethod
    def create(cls, config: Config, group: ProcessGroup, model: nn.Module | None = None) -> "FitState":
        """The state before the first step.

        Args:
            config: the configuration of the run.
            group: the process group of this fold; the networks are moved to its device.
            model: the network to start from, such as one with pretrained weights; by default `initial_model(config)`.
        """
        model = initial_model(config) if model is None else model
        if group.size > 1 and config.train.sync_batchnorm:
            model = convert_sync_batchnorm(model, group)
        model = model.to(group.device).to(memory_format=torch.channels_last)
        ema = copy.deepcopy(model).requires_grad_(False).eval()
        scaler = make_scaler(config.train.precision, group.device)
        return cls(model, ema, make_optimizer(model, config.optim), scaler=scaler)

    def state_dict(self) -> dict[str, Any]:
        """The state for `torch.save`, readable with `torch.load(weights_only=True)`. Tensors are not copied."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
        }

    def snapshot(self) -> dict[str, Any]:
        """A copy of `state_dict()` on the CPU, so that training can continue while the copy is written."""
        copied: dict[str, Any] = _copy_to_cpu(self.state_dict())
        return copied

    def misfit(self, state: Mapping[str, Any]) -> str | None:
        """Why `load_state_dict` cannot restore this; None if it can. This state does not change."""
        try:
            for name, module in (("model", self.model), ("ema", self.ema)):
                saved, own = state[name], module.state_dict()
                if saved.keys() != own.keys() or any(saved[key].shape != own[key].shape for key in own):
                    return f"its {name} has other tensors than this network"
            groups, own_groups = state["optimizer"]["param_groups"], self.optimizer.state_dict()["param_groups"]
            if [(group.keys(), group["params"]) for group in groups] != [(g.keys(), g["params"]) for g in own_groups]:
                return "its optimizer is another one, or of another network"
            shapes = [parameter.shape for group in self.optimizer.param_groups for parameter in group["params"]]
            for place, moments in state["optimizer"]["state"].items():
                if any(moment.shape not in (shapes[place], torch.Size()) for moment in moments.values()):
                    return "its optimizer has moments of other shapes"
            scaler = {key: type(value) for key, value in state.get("scaler", {}).items()}
            if scaler not in ({}, _SCALER_TYPES) or any(
                type(state[name]) is not int or state[name] < 0 for name in ("epoch", "step")
            ):
                return "its epoch, step or scale of the loss is none"
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            return f"it is not a state of training ({type(error).__name__}: {error})"
        return None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of the same configuration; the number of ranks may differ."""
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        if scaler := state.get("scaler"):  # empty from a device that needs none, missing from an older version
            self.scaler.load_state_dict(scaler)
        self.epoch = state["epoch"]
        self.step = state["step"]


def _copy_to_cpu(state: Any) -> Any:
    match state:
        case torch.Tensor():
            return state.detach().to("cpu", copy=True)
        case dict():
            return {key: _copy_to_cpu(value) for key, value in state.items()}
        case list() | tuple():
            return type(state)(_copy_to_cpu(value) for value in state)
    return state


def initial_model(config: Config) -> Network:
    """The network before training, on the CPU: a function of `config.model` and `config.train.seed`.

    `config.model.weights` is ignored: see `saltray.models.weights.load_weights`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.train.seed)
        return build_model(config.model)


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2014) or AdamW (Loshchilov and Hutter 2017), without weight decay of biases and BatchNorm."""
    parameters = list(model.parameters())
    param_groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(param_groups, lr=config.lr, fused=True)
