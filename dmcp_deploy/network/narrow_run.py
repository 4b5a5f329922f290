"""One pass of a traced network over narrowed layers, with as little around them as can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from dmcp_deploy.network.gated import Gating, gating, pass_gradient, scaled_norm, scaled_reader
from dmcp_deploy.network.graph import Layer, Network
from dmcp_deploy.network.graph_run import GraphRun
from dmcp_deploy.network.layers import narrowed
from dmcp_deploy.network.rewrites import Counter
from dmcp_deploy.network.selection import Borrowed, Pick, Selection, layer_tensors, part
from dmcp_deploy.network.shape_pass import Fetch
from dmcp_deploy.network.statistics import (
    NORM_FUNCTIONS,
    STATISTICS,
    keeps_statistics,
    norm_arguments,
)

#: Activations that, in place, keep a copy of their input for the backward pass.
_COPYING = (nn.Hardtanh, nn.Hardswish, nn.SiLU, nn.Mish)


#: (module or function, its arguments) -> its result.
Call = Callable[..., Any]


def call(target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Returns what a module or function returns."""
    return target(*args, **kwargs)


class NarrowRun:
    """Runs a network's graph on its modules, which stay as they are."""

    def __init__(self, network: Network, fetch: Fetch | None = None, call: Call = call) -> None:
        """Prepares what is the same in every pass.

        Args:
            network: The network.
            fetch: Returns the modules and tensors that its graph reads; None takes the network's.
            call: Calls a module or a function.
        """
        self._network, self._call = network, call
        self._fetch = network.fetch if fetch is None else fetch
        self._run = GraphRun(network.graph)
        self._gate_units: dict[torch.device, Tensor] = {}

    def __call__(
        self,
        images: Tensor,
        selection: Selection,
        gates: Tensor | None = None,
        borrowed: Borrowed | None = None,
        changed: set[str] | None = None,
    ) -> Tensor:
        """Returns the logits; for the arguments see `Supernet.forward`.

        What is left to it is `changed`: the names of the operations to which the forward pass
        itself gives other arguments are added to it.
        """
        one = _Pass(
            network=self._network,
            fetch=self._fetch,
            call=self._call,
            selection=selection,
            pick=part if borrowed is None else borrowed.lend,
            gates={} if gates is None else self._gates_by_node(gates, images),
            gating=Gating({}, {}) if gates is None else self._gating,
            counter=Counter(selection.extent, len(images)),
            device=images.device,
            changed=changed,
        )
        return self._run(images, one.value)  # type: ignore[no-any-return]

    @cached_property
    def _gating(self) -> Gating:
        return gating(self._network)

    def _gates_by_node(self, gates: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Returns the gate of every gated node, all of them read off in one go."""
        named = self._network.gates
        if gates.device not in self._gate_units:
            units = np.concatenate([units for units, _ in named.values()])
            self._gate_units[gates.device] = torch.from_numpy(units).to(gates.device)
        by_channel = torch.cat([gates, gates.new_ones(1)])[self._gate_units[gates.device]]
        sizes = [len(units) for units, _ in named.values()]
        parts = torch.split(by_channel.to(images.device, images.dtype), sizes)
        return dict(zip(named, parts, strict=True))


@dataclass(frozen=True)
class _Pass:
    """What one pass computes at its nodes."""

    network: Network
    fetch: Fetch
    call: Call
    selection: Selection
    pick: Pick
    gates: Mapping[str, Tensor]
    gating: Gating
    counter: Counter
    device: torch.device
    changed: set[str] | None

    def value(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        value = self._plain_value(node, args, kwargs)
        gate = self.gates.get(node.name)
        if gate is None or node.name in self.gating.absorbed:
            return value
        if node.name in self.gating.passed:
            return pass_gradient(value, gate)
        shape = [1] * value.ndim
        shape[self.network.gates[node.name][1]] = -1
        return value * gate.view(shape).to(value.dtype)

    def _plain_value(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        target: Any = node.target
        rewrite = self.network.rewrites.get(node.name)
        if rewrite is not None:
            if self.changed is not None and rewrite.changes(args, kwargs, self.counter):
                self.changed.add(node.name)
            args, kwargs = rewrite.apply(args, kwargs, self.counter)
            if rewrite.target is not None:
                return self.call(rewrite.target, *args, **kwargs)
        if node.op == "call_function":
            if target in NORM_FUNCTIONS:
                kwargs = _without_statistics(target, args, kwargs)
                args = (kwargs.pop("input"),)
            return self.call(target, *args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if node.op == "get_attr":
            return self._attribute(target)
        module = self.fetch(target)
        layer = self.network.layers.get(target)
        if layer is not None:
            return self.call(self._layer(module, layer, node), *args, **kwargs)
        if not module._modules and not _moves_statistics(module):
            return self.call(_passing(module, node), *args, **kwargs)
        with _still_statistics(module):
            return self.call(module, *args, **kwargs)

    def _layer(self, module: nn.Module, layer: Layer, node: fx.Node) -> nn.Module:
        """Returns a layer as it is in this pass."""
        tensors = layer_tensors(module, layer, self.selection, self.pick)
        if self.gates:
            tensors |= self._gated_tensors(module, node)
        if not tensors and layer.kind != "norm":
            return module
        inputs = None if layer.inputs is None else self.selection.count(layer.inputs)
        copy = narrowed(module, tensors, inputs)
        if layer.kind == "norm" and _moves_statistics(copy):
            # A batch norm goes by the flag, an instance norm by the buffers.
            copy.__dict__["track_running_stats"] = False
            copy.__dict__["_buffers"] = dict.fromkeys(copy._buffers)
        return copy

    def _gated_tensors(self, module: nn.Module, node: fx.Node) -> dict[str, Tensor]:
        if node.name in self.gating.norms:
            return scaled_norm(module, self.gates[self.gating.norms[node.name]])
        if node.name in self.gating.readers:
            return scaled_reader(module, self.gates[self.gating.readers[node.name]])
        return {}

    def _attribute(self, target: str) -> Any:
        tensor = self.fetch(target)
        if target in self.network.constants:
            return tensor.to(self.device)
        if target not in self.network.parameters:
            return tensor
        picks = self.selection.picks([self.network.parameters[target]])
        return self.pick(tensor, picks) if picks else tensor


def _passing(module: nn.Module, node: fx.Node) -> nn.Module:
    """Returns a module without tensors as it is in this pass."""
    if not (isinstance(module, _COPYING) and module.inplace and torch.is_grad_enabled()):
        return module
    if any(len(source.users) > 1 for source in node.all_input_nodes):
        return module
    copy = narrowed(module, {}, None)
    copy.__dict__["inplace"] = False
    return copy


def _without_statistics(function: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Returns the arguments of a norm's call, which moves no running statistics with them."""
    arguments = norm_arguments(function, args, kwargs)
    if arguments[NORM_FUNCTIONS[function][0]]:
        arguments |= {"running_mean": None, "running_var": None}
    return arguments


@contextmanager
def _still_statistics(module: nn.Module) -> Iterator[None]:
    """Lets what trains within a module move copies of its running statistics."""
    moving = [(m, m._buffers) for m in module.modules() if _moves_statistics(m)]
    for norm, buffers in moving:
        copies = {n: b.clone() for n, b in buffers.items() if n in STATISTICS and b is not None}
        norm.__dict__["_buffers"] = {**buffers, **copies}
    try:
        yield
    finally:
        for norm, buffers in moving:
            norm.__dict__["_buffers"] = buffers


def _moves_statistics(module: nn.Module) -> bool:
    return module.training and keeps_statistics(module)
