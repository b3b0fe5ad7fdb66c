"""BatchNorm over the global batch, so that results do not depend on the number of ranks."""

from typing import Any

import torch
from torch import Tensor, nn

from saltray.training.process_group import ProcessGroup


def convert_sync_batchnorm(model: nn.Module, group: ProcessGroup) -> nn.Module:
    """Replace every BatchNorm2d inside `model` by one with statistics over all ranks; the state dict is unchanged.

    On CUDA that is torch's nn.SyncBatchNorm, which does not support CPU tensors; on the CPU it is our own.
    """
    if group.device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(model, name, _SyncBatchNorm.like(child, group))
        else:
            convert_sync_batchnorm(child, group)
    return model


@torch.no_grad()
def average_buffers(model: nn.Module, group: ProcessGroup) -> None:
    """Replace running statistics by their mean over the ranks, where BatchNorm is not synchronised."""
    for buffer in model.buffers():
        if buffer.is_floating_point():
            group.sum(buffer).div_(group.size)


class _SyncBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d over the batches, of equal size, of all ranks: two all-reduces forward, two backward."""

    group: ProcessGroup

    @classmethod
    def like(cls, norm: nn.BatchNorm2d, group: ProcessGroup) -> "_SyncBatchNorm":
        """A layer that shares its parameters and buffers with `norm`."""
        assert norm.affine
        assert norm.track_running_stats
        assert norm.momentum is not None
        new = cls(norm.num_features, norm.eps, norm.momentum)
        new.weight, new.bias = norm.weight, norm.bias
        new.running_mean, new.running_var = norm.running_mean, norm.running_var
        new.num_batches_tracked = norm.num_batches_tracked
        new.group = group
        return new.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = x.numel() // x.shape[1] * self.group.size
        values = x.float()
        mean = self._total(values.sum(dim=(0, 2, 3), keepdim=True)) / count
        centred = values - mean
        # In a second pass: the mean of squares minus the square of the mean suffers from cancellation.
        variance = self._total(centred.square().sum(dim=(0, 2, 3), keepdim=True)) / count
        self._track(mean.detach().flatten(), variance.detach().flatten() * (count / (count - 1)))
        scale = self.weight.view(1, -1, 1, 1) * (variance + self.eps).rsqrt()
        return (centred * scale + self.bias.view(1, -1, 1, 1)).to(x.dtype)

    def _total(self, x: Tensor) -> Tensor:
        total: Tensor = _AllReduce.apply(x, self.group)
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
    """Sum over the ranks, whose gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return group.sum(x.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.group.sum(gradients[0].clone()), None
