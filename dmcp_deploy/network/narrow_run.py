"""One pass of a traced network over narrowed layers, with as little around them as can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from dmcp_deploy.network.gated import Gating, gating, pass_gradient, scaled_norm, scaled_reader
from dmcp_deploy.network.graph import Layer, Network
from dmcp_deploy.network.layers import narrowed
from dmcp_deploy.network.selection import Borrowed, Pick, Selection, layer_tensors, part

#: Activations that, in place, keep a copy of their input for the backward pass.
_COPYING = (nn.Hardtanh, nn.Hardswish, nn.SiLU, nn.Mish)


#: (module or function, its arguments) -> its result.
Call = Callable[..., Any]


def call(target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Returns what a module or function returns."""
    return target(*args, **kwargs)


class NarrowRun:
    """Runs a network's graph on its modules, which stay as they are."""

    def __init__(self, network: Network, call: Call = call) -> None:
        """Prepares what is the same in every pass.

        Args:
            network: The network.
            call: What calls each module and function.
        """
        self._network, self._call = network, call
        self._nodes = _with_last_uses(network.graph.graph)
        self._gate_units: dict[torch.device, Tensor] = {}

    def __call__(
        self,
        images: Tensor,
        selection: Selection,
        gates: Tensor | None,
        borrowed: Borrowed | None,
    ) -> Tensor:
        """Returns the logits; for the arguments see `Supernet.forward`."""
        gate_of = {} if gates is None else self._gates_by_node(gates, images)
        pick = part if borrowed is None else borrowed.lend
        acting = Gating({}, {}) if gates is None else self._gating
        one = _Pass(self._network, selection, gate_of, acting, pick, self._call)
        values: dict[fx.Node, Any] = {}
        result: Any = images
        for node, unused in self._nodes:
            args = map_arg(node.args, values.__getitem__)
            if node.op == "placeholder":
                result = args[0] if args else images
            elif node.op == "output":
                result = args[0]
            else:
                result = one.value(node, args, map_arg(node.kwargs, values.__getitem__))
            values[node] = result
            del args
            for source in unused:
                del values[source]
        return result  # type: ignore[no-any-return]

    @cached_property
    def _gating(self) -> Gating:
        return gating(self._network)

    def _gates_by_node(self, gates: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Returns the gate of every gated node, all of them read off in one go."""
        named = self._network.gates
        if gates.device not in self._gate_units:
            units = np.concatenate([units for units, _ in named.values()])
            self._gate_units[gates.device] = torch.from_numpy(units).to(gates.device)
        whole = torch.cat([gates, gates.new_ones(1)])[self._gate_units[gates.device]]
        sizes = [len(units) for units, _ in named.values()]
        parts = torch.split(whole.to(images.device, images.dtype), sizes)
        return dict(zip(named, parts, strict=True))


class _Pass:
    """What one pass computes at its nodes."""

    def __init__(
        self,
        network: Network,
        selection: Selection,
        gates: Mapping[str, Tensor],
        gating: Gating,
        pick: Pick,
        call: Call,
    ) -> None:
        self._network, self._selection, self._pick, self._call = network, selection, pick, call
        self._gates, self._gating = gates, gating

    def value(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        value = self._plain_value(node, args, kwargs)
        gate = self._gates.get(node.name)
        if gate is None or node.name in self._gating.absorbed:
            return value
        if node.name in self._gating.passed:
            return pass_gradient(value, gate)
        shape = [1] * value.ndim
        shape[self._network.gates[node.name][1]] = -1
        return value * gate.view(shape).to(value.dtype)

    def _plain_value(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        target: Any = node.target
        if node.op == "call_function":
            return self._call(target, *args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if node.op == "get_attr":
            return self._attribute(target)
        module = _fetch(self._network.model, target)
        layer = self._network.layers.get(target)
        if layer is not None:
            return self._call(self._layer(module, layer, node), *args, **kwargs)
        if not module._modules and not _moves_statistics(module):
            return self._call(_passing(module, node), *args, **kwargs)
        with _still_statistics(module):
            return self._call(module, *args, **kwargs)

    def _layer(self, module: nn.Module, layer: Layer, node: fx.Node) -> nn.Module:
        """Returns a layer as it is in this pass."""
        tensors = layer_tensors(module, layer, self._selection, self._pick)
        if self._gates:
            tensors |= self._gated_tensors(module, node)
        if not tensors and layer.kind != "norm":
            return module
        inputs = None if layer.inputs is None else self._selection.count(layer.inputs)
        copy = narrowed(module, tensors, inputs)
        if _moves_statistics(copy):
            copy.__dict__["track_running_stats"] = False
        return copy

    def _gated_tensors(self, module: nn.Module, node: fx.Node) -> dict[str, Tensor]:
        if node.name in self._gating.norms:
            return scaled_norm(module, self._gates[self._gating.norms[node.name]])
        if node.name in self._gating.readers:
            return scaled_reader(module, self._gates[self._gating.readers[node.name]])
        return {}

    def _attribute(self, target: str) -> Any:
        # The graph has references of its own, which go stale when the model changes its device.
        if target.startswith("_tensor_constant"):
            constant = _fetch(self._network.graph, target)
            return constant.to(next(self._network.model.parameters()).device)
        tensor = _fetch(self._network.model, target)
        if target not in self._network.parameters:
            return tensor
        picks = self._selection.picks([self._network.parameters[target]])
        return self._pick(tensor, picks) if picks else tensor


def _with_last_uses(graph: fx.Graph) -> list[tuple[fx.Node, list[fx.Node]]]:
    """Returns the nodes in order, each with those whose values nothing reads after it."""
    seen: set[fx.Node] = set()
    nodes = []
    for node in reversed(graph.nodes):
        last = [source for source in node.all_input_nodes if source not in seen]
        seen.update(last)
        nodes.append((node, last))
    return nodes[::-1]


def _fetch(module: nn.Module, target: str) -> Any:
    return reduce(getattr, target.split("."), module)


def _passing(module: nn.Module, node: fx.Node) -> nn.Module:
    """Returns a module without tensors as it is in this pass."""
    if not (isinstance(module, _COPYING) and module.inplace and torch.is_grad_enabled()):
        return module
    if any(len(source.users) > 1 for source in node.all_input_nodes):
        return module
    copy = narrowed(module, {}, None)
    copy.__dict__["inplace"] = False
    return copy


@contextmanager
def _still_statistics(module: nn.Module) -> Iterator[None]:
    tracking = [m for m in module.modules() if _moves_statistics(m)]
    for norm in tracking:
        norm.__dict__["track_running_stats"] = False
    try:
        yield
    finally:
        for norm in tracking:
            norm.__dict__["track_running_stats"] = True


def _moves_statistics(module: nn.Module) -> bool:
    return module.training and bool(getattr(module, "track_running_stats", False))
