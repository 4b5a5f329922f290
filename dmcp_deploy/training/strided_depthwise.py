"""A quicker gradient for strided depthwise convolutions in bfloat16 on CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dmcp_deploy.training.replaced import Replaced


def quick_strided_depthwise() -> AbstractContextManager[object]:
    """Returns the context in which strided depthwise convolutions in bf16 are quick on a CPU.

    The gradient of their images is computed in FP32: oneDNN 3.12 has no kernel of its own for it
    in bf16, and takes a general one that is ten times slower. Four such layers took more than half
    of MobileNetV2's backward pass.
    """
    return Replaced(F.conv2d, _conv2d)


def _conv2d(*args: Any, **kwargs: Any) -> Tensor:
    if kwargs or not _is_strided_depthwise(args):
        return F.conv2d(*args, **kwargs)
    images, weight, bias, *geometry, _ = args
    dtype = torch.get_autocast_dtype("cpu")
    geometry = [list(values) for values in geometry]
    values: Tensor = _Convolution.apply(images.to(dtype), weight.to(dtype), geometry)
    return values if bias is None else values + bias.to(dtype).view(1, -1, 1, 1)


def _is_strided_depthwise(args: Sequence[Any]) -> bool:
    if len(args) != 7 or isinstance(args[4], str):
        return False
    (images, weight, _, stride, _, _, groups), casting = args, torch.is_autocast_enabled("cpu")
    depthwise = 1 < groups == images.shape[1] == weight.shape[0]
    return depthwise and max(stride) > 1 and casting and images.device.type == "cpu"


class _Convolution(torch.autograd.Function):
    """The convolution without a bias; `geometry` is its stride, padding and dilation."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, geometry: list[list[int]]) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.geometry = geometry
        rest = (None, *geometry, False, [0, 0], len(weight))
        return torch.ops.aten.convolution(images, weight, *rest)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        images, weight = ctx.saved_tensors
        of_images = of_weight = None

        def backward(*tensors: Tensor, mask: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
            rest = (None, *ctx.geometry, False, [0, 0], len(weight), mask)
            return torch.ops.aten.convolution_backward(*tensors, *rest)  # type: ignore[no-any-return]

        if ctx.needs_input_grad[1]:
            of_weight = backward(gradients[0], images, weight, mask=[False, True, False])[1]
        if ctx.needs_input_grad[0]:
            # Of the images only shape, type and order are read here.
            like = torch.empty_like(images, dtype=torch.float32)
            floats = gradients[0].float(), like, weight.float()
            of_images = backward(*floats, mask=[True, False, False])[0].to(images.dtype)
        return of_images, of_weight, None
