"""Gates that norms and weights take in act as gates that multiply activations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from closeness import difference
from odd_nets import ODD_NETS
from spread_nets import NARROWING_NETS
from tiny_nets import TinyNet, randomise_norms, trace_tiny
from torch import Tensor

from dmcp_deploy.network.gated import Gating, gating
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import NetworkSpec


def stock(name: str) -> Network:
    network = build_network(NetworkSpec(name, num_classes=10, input_shape=(3, 32, 32)))
    randomise_norms(network.model)
    return network


def results(network: Network, *, by_multiplying: bool, frozen: bool) -> list[Tensor]:
    """Returns the logits, the gradient of the gates and those of the weights that have one."""
    network.model.double().train().zero_grad()
    network.model.requires_grad_(not frozen)
    supernet = Supernet(network)
    if by_multiplying:
        supernet._run._gating = Gating({}, {})
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, *network.spec.input_shape, generator=generator, dtype=torch.float64)
    gates = torch.linspace(0.1, 1.0, network.unit_count, dtype=torch.float64).requires_grad_()
    torch.manual_seed(0)  # of dropout
    logits = supernet(images, gates=gates)
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert gates.grad is not None
    learnt = [p.grad for p in network.model.parameters() if p.grad is not None]
    return [logits.detach(), gates.grad, *learnt]


def assert_alike(some: list[Tensor], others: list[Tensor]) -> None:
    """Checks that logits and gradients differ by rounding.

    Rounding is judged by the largest entry of all gradients: those in front of a batch norm may
    cancel to nothing. In FP64 it stays below 1e-9 by far, also behind batch norms over the four
    values of a map of one pixel, which may divide by a deviation a thousand times smaller.
    """
    assert difference(some[0], others[0]) < 1e-9
    largest = max(float(gradient.abs().max()) for gradient in others[1:])
    for one, other in zip(some[1:], others[1:], strict=True):
        assert float((one - other).abs().max()) < 1e-9 * largest


@pytest.mark.parametrize(
    ("name", "frozen"),
    [("mobilenet_v2", False), ("resnet18", True), ("mobilenet_v3_small", True)],
)
def test_in_stock_networks(name: str, frozen: bool) -> None:
    network = stock(name)
    fast = results(network, by_multiplying=False, frozen=frozen)
    slow = results(network, by_multiplying=True, frozen=frozen)
    assert len(fast) == len(slow) == (2 if frozen else 2 + len(list(network.model.parameters())))
    assert_alike(fast, slow)


@pytest.mark.parametrize("net", [*NARROWING_NETS, *ODD_NETS], ids=lambda net: net.__name__)
def test_in_tiny_networks(net: type[TinyNet]) -> None:
    network = trace_tiny(net)
    fast = results(network, by_multiplying=False, frozen=True)
    assert_alike(fast, results(network, by_multiplying=True, frozen=True))


@pytest.mark.parametrize(
    ("name", "norms", "passed", "multiplied"),
    [("mobilenet_v2", 17, 34, 1), ("resnet18", 20, 0, 0)],
)
def test_few_gates_multiply_activations(
    name: str, norms: int, passed: int, multiplied: int
) -> None:
    """In MobileNetV2 only that of the last layer does, which a pooling reads."""
    network = stock(name)
    found = gating(network)
    assert (len(found.norms), len(found.passed)) == (norms, passed)
    assert len(network.gates) - norms - passed == multiplied


def test_a_gate_of_zero_has_a_finite_gradient() -> None:
    network = stock("mobilenet_v2")
    network.model.train()
    gates = torch.zeros(network.unit_count, requires_grad=True)
    logits = Supernet(network)(torch.randn(4, 3, 32, 32), gates=gates)
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert gates.grad is not None
    assert bool(gates.grad.isfinite().all())
