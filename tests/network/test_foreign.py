"""Forward passes that torch.fx does not follow by itself: scripts, gradients, hooks, writes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from closeness import difference
from dynamic_nets import MACS, SHAPE, Between, TwoConvs, trace
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet

IMAGES = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
WIDTHS = {"first": 4, "second": 6}


class Swish(torch.autograd.Function):
    """Keeps its input alone for the backward pass, which is the derivative of its forward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        share = torch.sigmoid(x)
        return gradient * share * (1 + x * (1 - share))


class Reversed(torch.autograd.Function):
    """Leaves numbers as they are and turns gradients round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


def check_widths(network: Network, widths: dict[str, int]) -> nn.Module:
    """Checks that just these groups narrow, and that both networks agree; returns the dense one."""
    assert {group.name for group in network.prunable} == set(widths)
    dense = slice_network(network, widths).eval()
    with torch.no_grad():
        assert torch.equal(Supernet(network)(IMAGES), network.model.eval()(IMAGES))
        assert difference(dense(IMAGES), Supernet(network)(IMAGES, widths)) < 1e-5
    return dense


def check_gradients(network: Network) -> None:
    """Checks that the supernet has the gradients of the model itself, tensor by tensor."""
    parameters = list(network.model.parameters())
    ours, theirs = (
        torch.autograd.grad(run(IMAGES).square().sum(), parameters, materialize_grads=True)
        for run in (Supernet(network), network.model)
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_scripted_function_is_traced_through() -> None:
    scripted = torch.jit.script(F.silu)
    check_widths(trace(Between(lambda net, x: scripted(x))), WIDTHS)
    assert torch.equal(scripted(IMAGES), F.silu(IMAGES))


def test_a_function_of_autograd_that_derives_itself_is_traced_through() -> None:
    network = trace(Between(lambda net, x: Swish.apply(x)))
    check_widths(network, WIDTHS)
    check_gradients(network)


def test_a_function_with_another_gradient_keeps_it() -> None:
    network = trace(Between(lambda net, x: Reversed.apply(x)))
    check_widths(network, {"second": 6})
    (held,) = [group for group in network.groups if not group.prunable]
    assert held.reason == "Reversed is not in the layer table"
    check_gradients(network)


def test_what_is_computed_without_gradients_has_none_in_the_supernet() -> None:
    class Frozen(TwoConvs):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.early(x)
            return self.late(x)

    network = trace(Frozen())
    check_widths(network, WIDTHS)
    check_gradients(network)
    assert network.model.first.weight.grad is None


@pytest.mark.parametrize("tapped", ["", "inner"])
def test_a_hook_over_the_full_network_makes_the_dense_network_its_graph(tapped: str) -> None:
    class Tapped(TwoConvs):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.ReLU(), nn.Identity())
            self.seen: dict[str, Tensor] = {}
            layer = self.inner if tapped else self.inner[0]
            layer.register_forward_hook(lambda module, inputs, y: self.seen.update(y=y))

        def forward(self, x: Tensor) -> Tensor:
            self.inner(self.early(x))
            return self.late(self.seen["y"])

    network = trace(Tapped())
    check_widths(network, WIDTHS if tapped else {"second": 6})
    assert "a copy would share the full network's hooks of inner" in (network.graph_reason or "")


def test_a_part_that_is_written_into_narrows_by_itself() -> None:
    def shifted(net: Any, x: Tensor) -> Tensor:
        x = x.clone()
        x[:, :2] = x[:, :2] + 1
        return x

    network = trace(Between(shifted))
    dense = check_widths(network, {"first[0:2]": 1, "first[2:8]": 4, "second": 6})
    assert dense.first.out_channels == 5


def test_a_layer_norm_of_bare_parameters_narrows_with_its_channels() -> None:
    class Normed(Between):
        def __init__(self) -> None:
            super().__init__(normed)
            self.scale = nn.Parameter(torch.rand(8))
            self.shift = nn.Parameter(torch.rand(8))

    def normed(net: Any, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, (8,), net.scale, net.shift, 1e-6).permute(0, 3, 1, 2)

    dense = check_widths(trace(Normed()), WIDTHS)
    assert dense.scale.shape == dense.shift.shape == (4,)


def test_a_stored_matrix_narrows_with_the_features_that_it_reads() -> None:
    class Cosine(TwoConvs):
        def __init__(self) -> None:
            super().__init__()
            self.kinds = nn.Parameter(torch.randn(5, 12))

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.second(self.early(x))).mean((2, 3))
            return F.linear(F.normalize(x), F.normalize(self.kinds))

    network = trace(Cosine())
    dense = check_widths(network, WIDTHS)
    assert dense.kinds.shape == (5, 6)


class Doubled(nn.Conv2d):
    """Convolves two times with the same filters."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.conv2d(x, self.weight, None, self.stride, self.padding)


def test_a_subclass_that_multiplies_more_than_its_base_counts_more() -> None:
    net = TwoConvs()
    net.second = Doubled(8, 12, 3, 2, 1)
    network = trace(net)
    check_widths(network, WIDTHS)
    assert NetworkCost(network).full_macs == MACS + 16 * 72 * 12
    assert NetworkCost(network).macs_at(WIDTHS) == 64 * 27 * 4 + 2 * 16 * 36 * 6 + 6 * 5


def written_into_zeros(net: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :, 1:] = x[:, :, :-1]
    return y


def test_layers_behind_zeros_that_are_written_into_count() -> None:
    network = trace(Between(written_into_zeros))
    check_widths(network, WIDTHS)
    assert NetworkCost(network).full_macs == MACS


def scaled_by_buffers(net: Any, x: Tensor) -> Tensor:
    return x * net.var.rsqrt().view(1, -1, 1, 1)


def test_what_is_computed_of_buffers_follows_those_that_are_loaded_later() -> None:
    network = trace(Between(scaled_by_buffers))
    state = network.model.state_dict()
    network.model.load_state_dict({**state, "var": 2 * state["var"]})
    dense = check_widths(network, {"second": 6})
    assert torch.equal(dense.var, 2 * torch.linspace(0.5, 1.5, 8))


def test_a_frozen_batch_norm_narrows_and_keeps_its_numbers_in_training() -> None:
    net = Between(lambda net, x: net.norm(x))
    net.norm = FrozenBatchNorm2d(8)
    net.norm.running_var.copy_(torch.linspace(0.5, 1.5, 8))
    network = trace(net)
    dense = check_widths(network, WIDTHS)
    assert torch.equal(dense.norm.running_var, torch.linspace(0.5, 1.5, 8)[:4])
    with torch.no_grad():
        images = torch.randn(2, *SHAPE)
        supernet, training = Supernet(network), dense.train()(images)
        torch.testing.assert_close(supernet.train()(images, WIDTHS), training)
