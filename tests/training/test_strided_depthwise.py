"""Strided depthwise convolutions in bf16 on a CPU: another kernel, the same gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dmcp_deploy.training.precision import Precision

BF16 = Precision(torch.device("cpu"), bf16=True)


def depthwise(*, stride: int = 2, bias: bool = False, dilation: int = 1) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(
        24, 24, 3, stride, padding=dilation, dilation=dilation, groups=24, bias=bias
    ).to(memory_format=torch.channels_last)


def results(conv: nn.Conv2d, precision: Precision | None) -> list[Tensor]:
    """Returns the values and all gradients; without a precision those of FP32."""
    conv.zero_grad()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 24, 15, 18, generator=generator).requires_grad_()
    if precision is None:
        values = conv(images)
    else:
        with precision.autocast():
            values = conv(images)
    weights = torch.randn(values.shape, generator=generator)
    (values.float() * weights).sum().backward()
    learnt = [p.grad for p in conv.parameters() if p.grad is not None]
    assert images.grad is not None
    return [values.detach().float(), images.grad, *learnt]


@pytest.mark.parametrize(
    "conv",
    [depthwise(), depthwise(stride=3), depthwise(bias=True), depthwise(dilation=2)],
    ids=["stride-2", "stride-3", "bias", "dilation"],
)
def test_values_and_gradients_are_those_of_fp32_but_for_rounding(conv: nn.Conv2d) -> None:
    exact, rounded = results(conv, None), results(conv, BF16)
    assert len(exact) == len(rounded) == 2 + len(list(conv.parameters()))
    for one, other in zip(rounded, exact, strict=True):
        assert one.shape == other.shape
        assert float((one - other).norm() / other.norm()) < 1e-2  # bf16 keeps 8 bits


def test_frozen_weights_get_no_gradient() -> None:
    conv = depthwise()
    conv.requires_grad_(False)
    assert len(results(conv, BF16)) == 2


@pytest.mark.parametrize(
    ("layer", "replaced"),
    [
        (depthwise(), True),
        (depthwise(stride=1), False),
        (nn.Conv2d(24, 24, 3, 2), False),
        (nn.Conv2d(24, 48, 3, 2, groups=24), False),
    ],
    ids=["strided-depthwise", "depthwise", "strided", "two-per-channel"],
)
def test_other_convolutions_are_left_alone(layer: nn.Conv2d, replaced: bool) -> None:
    images = torch.randn(2, 24, 8, 8)
    with BF16.autocast():
        values = layer(images)
    assert values.dtype == torch.bfloat16
    assert values.grad_fn is not None
    assert (values.grad_fn.name() == "_ConvolutionBackward") == replaced


def test_fp32_is_left_alone() -> None:
    with Precision(torch.device("cpu"), bf16=False).autocast():
        values = depthwise()(torch.randn(2, 24, 8, 8))
    assert values.dtype == torch.float32
    assert values.grad_fn is not None
    assert values.grad_fn.name() == "ConvolutionBackward0"
