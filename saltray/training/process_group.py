"""The process group that trains one fold."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class ProcessGroup:
    """This process's rank in torch.distributed's default group, which must be initialised if `size` is over 1.

    Args:
        rank: this process's rank, 0..size-1.
        size: number of processes, the world size.
        device: the device of this rank.
    """

    rank: int
    size: int
    device: torch.device

    @classmethod
    def single(cls, device: str | torch.device = "cpu") -> "ProcessGroup":
        """A group of this process alone."""
        return cls(rank=0, size=1, device=torch.device(device))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over all ranks, on every rank; `tensor` may be overwritten."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor
