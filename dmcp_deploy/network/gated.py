"""How gates act without a pass over activations, where the layers around them allow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.trace import called_modules

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_RELUS = {F.relu, torch.relu}


@dataclass(frozen=True)
class Gating:
    """Which node does the work of which gated node; the gates of others multiply their values.

    A gate g >= 0 behind a batch norm, or behind a ReLU behind it, is a factor of the norm's
    scale and shift, since g * max(x, 0) = max(g * x, 0). Any other that convolutions and linear
    layers alone read is a factor of what their weights read, and its gradient a sum over the
    values' gradients (see `pass_gradient`).

    Attributes:
        norms: Batch norm's node -> gated node.
        readers: Convolution's or linear layer's node -> gated node.
    """

    norms: Mapping[str, str]
    readers: Mapping[str, str]

    @property
    def passed(self) -> frozenset[str]:
        """The gated nodes whose readers are scaled."""
        return frozenset(self.readers.values())

    @property
    def absorbed(self) -> frozenset[str]:
        """The gated nodes whose norms are scaled."""
        return frozenset(self.norms.values())


def gating(network: Network) -> Gating:
    """Returns how each of a network's gates acts."""
    modules = called_modules(network.model, network.graph)
    norms: dict[str, str] = {}
    readers: dict[str, str] = {}
    for node in network.graph.nodes:
        if node.name not in network.gates:
            continue
        norm = _source(node) if _is_relu(node, modules) else node
        if norm is not None and _scales(norm, node, network, modules):
            norms[norm.name] = node.name
        elif all(_reads(user, node, network, modules) for user in node.users):
            readers |= {user.name: node.name for user in node.users}
    return Gating(norms, readers)


def scaled_norm(module: nn.Module, gate: Tensor) -> dict[str, Tensor]:
    """Returns scale and shift of a batch norm whose output is to be multiplied by a gate [C]."""
    return {name: getattr(module, name) * gate for name in ("weight", "bias")}


def scaled_reader(module: nn.Module, gate: Tensor) -> dict[str, Tensor]:
    """Returns the weight of a layer that is to read its input multiplied by a gate [C].

    The weight sends no gradient to the gate: `pass_gradient` does.
    """
    weight: Tensor = module.weight  # type: ignore[assignment]
    dim = 0 if _is_depthwise(module) else 1
    shape = [1] * weight.ndim
    shape[dim] = -1
    return {"weight": weight * gate.detach().to(weight.dtype).view(shape)}


def pass_gradient(values: Tensor, gate: Tensor) -> Tensor:
    """Returns the values as they are, for readers whose weights have taken in the gate.

    What comes back from such readers is g * dL/d(g * x), so that the gate's gradient is the sum
    of x times that, over g.

    Args:
        values: x, shape [N, C, ...].
        gate: g, at least 0, shape [C]; where it is 0 its gradient is taken for 0.
    """
    return _PassGradient.apply(values, gate)  # type: ignore[no-any-return]


class _PassGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(values, gate)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        values, gate = ctx.saved_tensors
        sums = _channel_dots(gradients[0], values).to(gate.dtype)
        return gradients[0], torch.where(gate > 0, sums / gate, torch.zeros_like(gate))


def _channel_dots(left: Tensor, right: Tensor) -> Tensor:
    """Returns the sum of products of each channel, shape [C]."""
    if right.device.type != "cpu" or right.dtype == torch.bfloat16:
        return (left * right).sum([0, *range(2, right.ndim)], dtype=torch.float32)
    # A batch norm with fixed statistics has it as the gradient of its scale, and computes it
    # without the product as a tensor, seven times as fast.
    zero, one = right.new_zeros(right.shape[1]), right.new_ones(right.shape[1])
    mask = [False, True, False]
    dots: Tensor = torch.ops.aten.native_batch_norm_backward(
        left, right, one, zero, one, None, None, False, 0.0, mask
    )[1]
    return dots


def _source(node: fx.Node) -> fx.Node | None:
    """Returns the node that this one reads, if it reads one and no other reads that."""
    sources = node.all_input_nodes
    return sources[0] if len(sources) == 1 and len(sources[0].users) == 1 else None


def _is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.ReLU)
    return node.op == "call_function" and node.target in _RELUS


def _scales(
    norm: fx.Node, gated: fx.Node, network: Network, modules: Mapping[str, nn.Module]
) -> bool:
    """Returns whether a node is a batch norm with a scale for each of the gate's channels."""
    if not _takes(norm, gated, network):
        return False
    module = modules[str(norm.target)]
    return type(module) in _BATCH_NORMS and bool(module.affine)


def _reads(
    reader: fx.Node, gated: fx.Node, network: Network, modules: Mapping[str, nn.Module]
) -> bool:
    """Returns whether a node is a layer with a weight for each of the gate's channels."""
    if reader.args[:1] != (gated,) or not _takes(reader, gated, network):
        return False
    module = modules[str(reader.target)]
    if network.layers[str(reader.target)].kind == "linear":
        return True
    return isinstance(module, nn.Conv2d) and (module.groups == 1 or _is_depthwise(module))


def _takes(node: fx.Node, gated: fx.Node, network: Network) -> bool:
    """Returns whether a node is a layer that reads just the gate's channels."""
    if node.op != "call_module" or str(node.target) not in network.layers:
        return False
    units, (gate, axis) = network.layers[str(node.target)].inputs, network.gates[gated.name]
    return axis == 1 and units is not None and bool(np.array_equal(gate, units))


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and (
        1 < module.groups == module.in_channels == module.out_channels
    )
