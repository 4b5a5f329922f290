"""Batch norms whose statistics are those of all processes' images."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dmcp_deploy.training.distributed import add_up, world_size
from dmcp_deploy.training.replaced import Replaced


def synced_norms() -> AbstractContextManager[object]:
    """Returns the context in which batch norms that train look at all processes' images.

    Every process must run the same norms in the same order, forward and backward. It works by
    whatever the processes talk by (torch's own SyncBatchNorm needs CUDA).
    """
    return nullcontext() if world_size() == 1 else Replaced(F.batch_norm, synced_batch_norm)


def synced_batch_norm(
    images: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Returns what `torch.nn.functional.batch_norm` would of the images of all processes.

    Args:
        images: This process's share, [N, C, ...].
        running_mean: Moved in place in training, [C].
        running_var: Moved in place in training, by the unbiased variance, [C].
        weight: Scale, [C].
        bias: Shift, [C].
        training: Whether the statistics are those of the images.
        momentum: Of the running statistics.
        eps: Added to the variance.
    """
    if not training:
        return F.batch_norm(images, running_mean, running_var, weight, bias, False, momentum, eps)
    mean, var, count = _statistics(images.detach())
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        unbiased = var * (count / (count - 1).clamp(min=1))
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    one = mean.new_ones(mean.shape) if weight is None else weight
    zero = mean.new_zeros(mean.shape) if bias is None else bias
    return _SyncedNorm.apply(images, one, zero, mean, var, count, eps)  # type: ignore[no-any-return]


def _statistics(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean [C], biased variance [C] and count [] of all processes' values."""
    dims = _reduced(images)
    var, mean = torch.var_mean(images.float(), dims, correction=0)
    # In double precision nothing is lost where a variance is small beside its mean.
    mean, var = mean.double(), var.double()
    count = mean.new_tensor([images.numel() / images.shape[1]])
    sums = add_up(torch.cat([count * mean, count * (var + mean.square()), count]))
    total, size = sums[-1], len(mean)
    mean, square = sums[:size] / total, sums[size:-1] / total
    return mean.float(), (square - mean.square()).clamp(min=0).float(), total


class _SyncedNorm(torch.autograd.Function):
    """The normalisation by given statistics that depend on all processes' images.

    Weight and bias get the gradients of this process's loss. The images get those of the sum of
    all processes' losses, as each image moves the statistics of all.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        scale = torch.rsqrt(var + eps)
        ctx.save_for_backward(images, weight, mean, scale, count)
        return F.batch_norm(images, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, scale, count = ctx.saved_tensors
        gradient, dims = gradients[0].float(), _reduced(images)
        shape = [1, -1] + [1] * (images.ndim - 2)
        normal = (images.float() - mean.view(shape)) * scale.view(shape)
        sums = torch.stack([gradient.sum(dims), (gradient * normal).sum(dims)])
        of_bias, of_weight = sums
        if not ctx.needs_input_grad[0]:
            return None, of_weight, of_bias, None, None, None, None
        shift, slope = (add_up(sums.double()) / count).float()
        moved = gradient - shift.view(shape) - normal * slope.view(shape)
        moved = moved * (scale * weight.float()).view(shape)
        return moved.to(images.dtype), of_weight, of_bias, None, None, None, None


def _reduced(images: Tensor) -> list[int]:
    return [0, *range(2, images.ndim)]
