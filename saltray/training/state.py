"""All that changes while a fold is trained."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saltray.config import Config, OptimConfig
from saltray.models.build import build_model
from saltray.training.norm import synchronise
from saltray.training.process_group import ProcessGroup


@dataclass(eq=False)
class FitState:
    """The network, its average, the optimiser and how far they are.

    Everything else (order, augmentation, learning rate) is a function of the configuration, the epoch and the step, so
    a run that goes on from this state is the same to the bit as one that was never stopped.
    """

    model: nn.Module
    """What is trained."""
    ema: nn.Module
    """Moving average of `model`, in eval mode: what is scored and published."""
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Finished steps."""

    @classmethod
    def create(cls, config: Config, ranks: ProcessGroup, model: nn.Module | None = None) -> "FitState":
        """The state before the first step.

        Args:
            config: the run.
            ranks: this rank; the networks go to its device.
            model: the network to start from, by default `initial_model(config)`. Load encoder weights into it before.
        """
        model = initial_model(config) if model is None else model
        if ranks.size > 1 and config.train.sync_batchnorm:
            model = synchronise(model, ranks)
        model = model.to(ranks.device).to(memory_format=torch.channels_last)
        ema = copy.deepcopy(model).requires_grad_(False).eval()
        return cls(model, ema, make_optimizer(model, config.optim))

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings, which `torch.load(weights_only=True)` reads; the tensors are the live ones."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state of the same configuration; the number of ranks may differ."""
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]
        self.step = state["step"]


def initial_model(config: Config) -> nn.Module:
    """The network before training, a function of `config.model` and `config.train.seed`; on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.train.seed)
        return build_model(config.model)


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba, 2014) or AdamW (Loshchilov and Hutter, 2017); vectors are exempt from the decay."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.lr, fused=True)
