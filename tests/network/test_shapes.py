"""Shapes without data: what the tables tell is what torch computes, and misfits still show."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tiny_nets import CLASSES, INPUT, TinyNet, conv
from torch import Tensor, nn

from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.layers import output_shape
from dmcp_deploy.network.operations import result_shape
from dmcp_deploy.network.shape_pass import call_for_shape
from dmcp_deploy.plan import NetworkSpec

IMAGE, VECTOR = (2, 8, 9, 7), (2, 5, 12)

#: Layer, shape of its input.
TOLD = [
    (nn.Conv2d(8, 6, 3), IMAGE),
    (nn.Conv2d(8, 6, (3, 1), stride=(2, 3), padding=(1, 2), dilation=(2, 1)), IMAGE),
    (nn.Conv2d(8, 16, 3, padding=1, groups=8), IMAGE),
    (nn.Conv1d(8, 4, 3), (2, 8, 9)),
    (nn.Conv3d(2, 4, 3), (2, 2, 5, 5, 5)),
    (nn.Linear(12, 3), VECTOR),
    (nn.BatchNorm2d(8), IMAGE),
    (nn.LayerNorm(12), VECTOR),
    (nn.LayerNorm((9, 7)), IMAGE),
    *((layer, IMAGE) for layer in (nn.ReLU6(), nn.Hardswish(), nn.GELU(), nn.Dropout(), nn.ELU())),
]
#: Layer, an input that it does not take.
MISFITS = [
    (nn.Conv2d(8, 6, 3), (2, 7, 9, 7)),
    (nn.Conv2d(8, 6, 9), IMAGE),
    (nn.Linear(11, 3), VECTOR),
    (nn.BatchNorm2d(7), IMAGE),
    (nn.BatchNorm2d(5), VECTOR),
    (nn.LayerNorm(11), VECTOR),
]
#: Layers whose shapes have to be found by running them.
UNTOLD = [
    nn.Conv2d(8, 6, 3, padding="same"),
    nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"),
    nn.MaxPool2d(2),
    nn.InstanceNorm2d(8),
    nn.GroupNorm(2, 8),
]
FUNCTIONS: list[Callable[[Tensor], Tensor]] = [
    lambda x: F.relu6(x),
    lambda x: x + x,
    lambda x: x * 2.0,
    lambda x: F.adaptive_avg_pool2d(x, 1),
    lambda x: F.adaptive_avg_pool2d(x, (None, 3)),
]


@pytest.mark.parametrize(("layer", "shape"), TOLD, ids=str)
def test_the_layer_table_tells_the_shapes_that_torch_computes(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    layer.eval()
    assert output_shape(layer, torch.empty(shape, device="meta")) == layer(torch.zeros(shape)).shape


@pytest.mark.parametrize(("layer", "shape"), MISFITS, ids=str)
def test_a_layer_that_does_not_take_its_input_is_run_and_says_so(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    x = torch.empty(shape, device="meta")
    assert output_shape(layer, x) is None
    with pytest.raises((RuntimeError, ValueError)):
        call_for_shape(layer.eval().to("meta"), x)


@pytest.mark.parametrize("layer", UNTOLD, ids=str)
def test_other_layers_are_run(layer: nn.Module) -> None:
    x = torch.empty(IMAGE, device="meta")
    assert output_shape(layer, x) is None
    without_data = call_for_shape(layer.eval().to("meta"), x)
    assert without_data.shape == layer.to_empty(device="cpu")(torch.zeros(IMAGE)).shape


def test_a_subclass_or_a_layer_with_a_hook_is_run() -> None:
    x = torch.empty(IMAGE, device="meta")
    assert output_shape(Halved(), x) is None
    assert call_for_shape(Halved(), x).shape == (2, 4, 9, 7)
    hooked = nn.ReLU()
    hooked.register_forward_hook(lambda module, args, output: output[:, :3])
    assert call_for_shape(hooked, x).shape == (2, 3, 9, 7)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_without_data_have_the_shapes_that_torch_computes(
    function: Callable[[Tensor], Tensor],
) -> None:
    x = torch.empty(IMAGE, device="meta")
    assert call_for_shape(function, x).shape == function(torch.zeros(IMAGE)).shape


def test_the_operation_table_tells_shapes_of_equal_operands_alone() -> None:
    x = torch.empty(IMAGE, device="meta")
    assert result_shape(F.hardswish, x, ()) == x.shape
    assert result_shape(torch.add, x, (x,)) == x.shape
    assert result_shape(torch.add, x[:, :1], (x,)) is None
    assert result_shape(torch.add, x, (x.double(),)) is None
    assert result_shape(F.adaptive_avg_pool2d, x, ((2, 3),)) == (2, 8, 2, 3)
    assert result_shape(F.max_pool2d, x, (2,)) is None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_multiply_adds_of_opaque_modules_count_in_any_mode(mode: Callable[[], object]) -> None:
    network = traced(Unknown(mode))
    assert network.fixed_macs == {"odd": 64 * 8 * 8 + 64 * 8 * 8}


@pytest.mark.parametrize("forward", ["default", "several"])
def test_a_forward_may_name_its_images_as_it_likes(forward: str) -> None:
    network = traced(Default() if forward == "default" else Several())
    assert [(group.name, group.reason) for group in network.groups] == [("conv", None)]


def test_a_forward_that_needs_more_than_images_is_refused() -> None:
    with pytest.raises(Exception, match="forward of Masked needs mask beside its images"):
        traced(Masked())


def traced(model: nn.Module) -> Network:
    return trace_network(model, NetworkSpec("tiny", num_classes=CLASSES, input_shape=INPUT))


class Halved(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, ::2]


class Odd(nn.Module):
    def __init__(self, mode: Callable[[], object]) -> None:
        super().__init__()
        self.mode, self.conv, self.linear = mode, nn.Conv2d(8, 8, 1, bias=False), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if float(x.detach().square().sum()) >= 0:  # control flow that cannot be traced
            with self.mode():  # type: ignore[attr-defined]
                return self.linear(self.conv(x))
        return x


class Unknown(TinyNet):
    def __init__(self, mode: Callable[[], object]) -> None:
        super().__init__(8)
        self.conv, self.odd = conv(3, 8), Odd(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.odd(self.conv(x)))


class Default(TinyNet):
    def __init__(self) -> None:
        super().__init__(8)
        self.conv = conv(3, 8)

    def forward(self, x: Tensor | None = None) -> Tensor:
        return self.classify(self.conv(x))


class Several(Default):
    def forward(self, *tensors: Tensor) -> Tensor:
        return self.classify(self.conv(tensors[0]))


class Masked(Default):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.classify(self.conv(x) * mask)
