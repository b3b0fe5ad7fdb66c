"""The processes that train one fold together."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class ProcessGroup:
    """This process's place among them, and its device; with `size` over 1 torch.distributed must be initialised.

    Args:
        rank: 0..size-1.
        size: number of processes.
        device: where this rank computes.
    """

    rank: int
    size: int
    device: torch.device

    @classmethod
    def single(cls, device: str | torch.device = "cpu") -> "ProcessGroup":
        """One process alone."""
        return cls(rank=0, size=1, device=torch.device(device))

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum of every rank's tensor, on each of them; `tensor` itself may be overwritten."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor
