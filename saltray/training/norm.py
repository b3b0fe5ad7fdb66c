"""BatchNorm over the global batch, so that the number of ranks does not change what the network computes."""

from typing import Any

import torch
from torch import Tensor, nn

from saltray.training.process_group import ProcessGroup


def synchronise(model: nn.Module, ranks: ProcessGroup) -> nn.Module:
    """Let every BatchNorm2d inside `model` use the statistics of all ranks; parameters and state-dict keys stay.

    On CUDA these are torch's own nn.SyncBatchNorm, which refuses tensors of the CPU.
    """
    if ranks.device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for name, child in model.named_children():
        new = _CrossRankBatchNorm.like(child, ranks) if type(child) is nn.BatchNorm2d else synchronise(child, ranks)
        setattr(model, name, new)
    return model


@torch.no_grad()
def average_buffers(model: nn.Module, ranks: ProcessGroup) -> None:
    """Replace the running statistics by their mean over the ranks: where each kept its own, one model comes of it."""
    for buffer in model.buffers():
        if buffer.is_floating_point():
            ranks.sum(buffer).div_(ranks.size)


class _CrossRankBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d over equal batches of all ranks: two all-reduces forward, two backward."""

    ranks: ProcessGroup

    @classmethod
    def like(cls, norm: nn.BatchNorm2d, ranks: ProcessGroup) -> "_CrossRankBatchNorm":
        """The same layer: it shares its parameters and buffers with `norm`."""
        assert norm.affine
        assert norm.track_running_stats
        assert norm.momentum is not None
        new = cls(norm.num_features, norm.eps, norm.momentum)
        new.weight, new.bias = norm.weight, norm.bias
        new.running_mean, new.running_var = norm.running_mean, norm.running_var
        new.num_batches_tracked = norm.num_batches_tracked
        new.ranks = ranks
        return new.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = x.numel() // x.shape[1] * self.ranks.size
        values = x.float()
        mean = self._total(values.sum(dim=(0, 2, 3), keepdim=True)) / count
        centred = values - mean
        # About the mean, in a second pass: the mean of squares less the square of the mean cancels badly.
        variance = self._total(centred.square().sum(dim=(0, 2, 3), keepdim=True)) / count
        self._track(mean.detach().flatten(), variance.detach().flatten() * (count / (count - 1)))
        scale = self.weight.view(1, -1, 1, 1) * (variance + self.eps).rsqrt()
        return (centred * scale + self.bias.view(1, -1, 1, 1)).to(x.dtype)

    def _total(self, x: Tensor) -> Tensor:
        total: Tensor = _AllReduce.apply(x, self.ranks)
        return total

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)


class _AllReduce(torch.autograd.Function):
    """Sum over the ranks; its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: ProcessGroup) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum(x.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.sum(gradients[0].clone()), None
