"""The walk over a graph that finds which channels are tied, pinned, gated."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import fx, nn

from dmcp_deploy.network.call import Call, Value, fits, place
from dmcp_deploy.network.channels import ChannelIds, Channels, Ids
from dmcp_deploy.network.gates import gate_nodes, weighted_ends
from dmcp_deploy.network.layer_rules import Coupling, Shape, places
from dmcp_deploy.network.layers import is_hooked, rule_for
from dmcp_deploy.network.operations import propagate
from dmcp_deploy.network.rewrites import Rewrite
from dmcp_deploy.network.trace import Trace

INPUT_REASON = "it is the network's input"
OUTPUT_REASON = "it is the network's output"

#: Elements of a bare parameter that are followed one by one; a larger one stays whole.
_MOST_BARE = 1 << 17


@dataclass(frozen=True, eq=False)
class Producer:
    """A layer of the table as the walk met it."""

    name: str
    kind: str
    coupling: Coupling
    in_channels: int
    out_channels: int
    positions: int


@dataclass(frozen=True, eq=False)
class Product:
    """An operation that multiplies by a stored factor.

    Attributes:
        name: Where it stands.
        macs: Its multiply-adds for one image in the full network.
        ids: The channels that it grows with, by identities or by unit numbers.
    """

    name: str
    macs: int
    ids: Ids


@dataclass
class Couplings:
    """All that the walk found out.

    Attributes:
        ids: The channels, with what is tied and what is pinned.
        producers: The layers in order of execution, each once.
        parameters: (name, dimension, identities) of parameters that the graph reads directly.
        gates: (node name, identities, axis) of the places where a gate may sit.
        fixed_macs: Where -> multiply-adds of convolutions and linear layers outside the table.
        products: Those of operations whose multiply-adds grow with some channels.
        rewrites: Node name -> the numbers of channels among its arguments, by identities.
    """

    ids: ChannelIds
    producers: list[Producer] = field(default_factory=list)
    parameters: list[tuple[str, int, Ids]] = field(default_factory=list)
    gates: list[tuple[str, Ids, int]] = field(default_factory=list)
    fixed_macs: dict[str, int] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    rewrites: dict[str, Rewrite] = field(default_factory=dict)

    def refuse(self, group: str, reason: str) -> None:
        """Pins the group that is named after one of the layers."""
        layer, _, part = group.partition("[")
        outputs = next(p.coupling.outputs for p in self.producers if p.name == layer)
        assert outputs is not None
        if part:
            start, stop = (int(n) for n in part.rstrip("]").split(":"))
            outputs = outputs[start:stop]
        self.ids.pin(Channels(outputs, (1,)), reason)


def couple_channels(
    model: nn.Module, trace: Trace, refused: Mapping[str, str], even: Collection[str] = ()
) -> Couplings:
    """Returns the channels of a traced network with all that ties and pins them.

    Args:
        model: The network.
        trace: Its trace, whose nodes carry their shapes (see `annotate_graph`).
        refused: Group name -> reason: groups to pin beside what the rules pin.
        even: The grouped convolutions that keep their groups (see `ChannelIds`).
    """
    walk = _Walk(model, trace, ChannelIds([trace.modules[name] for name in even]))
    for node in trace.graph.nodes:
        walk.visit(node)
    walk.settle()
    walk.pin_borrowed_weights()
    for name, reason in refused.items():
        walk.couplings.refuse(name, reason)
    walk.couplings.gates = _gates(trace, walk.values, walk.couplings.ids)
    return walk.couplings


class _Walk:
    def __init__(self, model: nn.Module, trace: Trace, ids: ChannelIds) -> None:
        self.couplings = Couplings(ids)
        self.values: dict[fx.Node, Value] = {}
        self._modules = trace.modules
        self._parameters = dict(model.named_parameters())
        self._borrowed = _sharing(trace, self._parameters)
        self._seen: dict[str, Producer] = {}
        self._bare: dict[str, Channels] = {}

    def visit(self, node: fx.Node) -> None:
        self.values[node] = getattr(self, f"_{node.op}")(node)

    def pin_borrowed_weights(self) -> None:
        """Keeps layers whole whose weights serve elsewhere too, where they are not cut alike."""
        for producer in self.couplings.producers:
            if producer.name in self._borrowed:
                for ids in (producer.coupling.inputs, producer.coupling.outputs):
                    if ids is not None:
                        self.couplings.ids.pin(
                            Channels(ids, (1,)), "its layer's weights serve elsewhere"
                        )

    def _placeholder(self, node: fx.Node) -> Value:
        shape = node.meta["shape"]
        if not _is_tensor_shape(shape):
            return None
        value = Channels(self.couplings.ids.fresh(shape[1]), (1,))
        self.couplings.ids.pin(value, INPUT_REASON)
        return value

    def _output(self, node: fx.Node) -> Value:
        for source in node.all_input_nodes:
            self.couplings.ids.pin(self.values[source], OUTPUT_REASON)
        return None

    def _get_attr(self, node: fx.Node) -> Value:
        """A bare parameter carries channels along one of its long axes."""
        name, shape = str(node.target), node.meta["shape"]
        if not _reads_values(node):
            return None
        owner = name.rpartition(".")[0]
        if owner in self._modules and rule_for(self._modules[owner]) is not None:
            self._borrowed.add(owner)
            return None
        long = tuple(axis for axis, size in enumerate(shape or ()) if size > 1)
        if name not in self._parameters or not long:
            return None
        sizes = [shape[axis] for axis in long]
        if name not in self._bare and math.prod(sizes) <= _MOST_BARE:
            ids = self.couplings.ids.fresh(math.prod(sizes))
            self._bare[name] = Channels(ids.reshape(sizes), long)
            self.couplings.ids.split(self._bare[name].ids, None)
        return self._bare.get(name)

    def settle(self) -> None:
        """Decides which axis narrows where several could."""
        ids = self.couplings.ids
        ids.settle_splits()
        for name, value in self._bare.items():
            left = ids.compact(value)
            self.couplings.parameters.append((name, left.axis, left.ids))

    def _call_function(self, node: fx.Node) -> Value:
        couplings = self.couplings
        result = propagate(Call(node, couplings.ids, self.values, couplings.rewrites))
        self._add_product(node)
        return result

    _call_method = _call_function

    def _call_module(self, node: fx.Node) -> Value:
        name = str(node.target)
        module = self._modules[name]
        what = f"{name} ({type(module).__name__})"
        rule = None if is_hooked(module) else rule_for(module)
        if rule is None or not _maps_one_tensor(node):
            self._add_fixed_macs(node, name)
            if is_hooked(module):
                return self._pin_inputs(node, f"{what} has a hook, which may do anything")
            return self._refuse_inputs(node, what)
        source = _tensors_read(node)[0]
        x, x_shape, y_shape = self.values[source], source.meta["shape"], node.meta["shape"]
        coupling = rule.couple(module, self.couplings.ids, x, x_shape, y_shape)
        if not source.meta["from_input"]:  # known before the first image
            coupling = replace(coupling, macs_per_pair=0)
        elif coupling.outputs is not None and node.meta.get("macs"):
            coupling = _as_counted(module, coupling, y_shape, node.meta["macs"])
        self._record(name, rule.kind, module, coupling, y_shape)
        if fits(coupling.result, y_shape):
            return coupling.result
        self.couplings.ids.pin(coupling.result, f"{name} returns another shape than its type does")
        return self._refuse_inputs(node, f"{what}, as it is used here,")

    def _refuse_inputs(self, node: fx.Node, what: str) -> None:
        self._pin_inputs(node, f"{what} is not in the layer table")

    def _pin_inputs(self, node: fx.Node, reason: str) -> None:
        for source in node.all_input_nodes:
            self.couplings.ids.pin(self.values[source], reason)

    def _add_product(self, node: fx.Node) -> None:
        """Takes note of the multiply-adds of an operation; those of unknown ones are fixed."""
        read = (self.values[source] for source in node.all_input_nodes)
        known = [self.couplings.ids.compact(x) for x in read if isinstance(x, Channels)]
        macs = node.meta.get("macs", 0)
        if macs and known and known[0].ids.ndim == 1:
            self.couplings.products.append(Product(place(node), macs, known[0].ids))
            return
        if macs:
            self.couplings.ids.pin(known, "it is multiplied by a stored factor in a way of its own")
            self._add_fixed_macs(node, place(node))

    def _add_fixed_macs(self, node: fx.Node, name: str) -> None:
        macs = node.meta.get("macs", 0)
        if macs:
            fixed = self.couplings.fixed_macs
            fixed[name] = fixed.get(name, 0) + macs

    def _record(
        self, name: str, kind: str, module: nn.Module, coupling: Coupling, y_shape: Shape
    ) -> None:
        if coupling.inputs is None and coupling.outputs is None:
            return
        producer = Producer(name, kind, coupling, *_extent(module, coupling, y_shape))
        earlier = self._seen.setdefault(name, producer)
        if earlier is producer:
            self.couplings.producers.append(producer)
            return
        self._tie_calls(earlier.coupling, coupling)
        self._count_again(earlier, coupling)

    def _count_again(self, earlier: Producer, again: Coupling) -> None:
        macs = earlier.coupling.macs_per_pair + again.macs_per_pair
        both = replace(earlier, coupling=replace(earlier.coupling, macs_per_pair=macs))
        self.couplings.producers[self.couplings.producers.index(earlier)] = both
        self._seen[earlier.name] = both

    def _tie_calls(self, earlier: Coupling, again: Coupling) -> None:
        """A layer called twice has one set of weights: both calls narrow alike."""
        for before, now in ((earlier.inputs, again.inputs), (earlier.outputs, again.outputs)):
            if before is not None and now is not None:
                self.couplings.ids.tie(before, now)
            else:
                for ids in (before, now):
                    self._pin(ids, "its layer also reads unknown channels")

    def _pin(self, ids: Ids | None, reason: str) -> None:
        if ids is not None:
            self.couplings.ids.pin(Channels(ids, (1,)), reason)


def _sharing(trace: Trace, parameters: Mapping[str, nn.Parameter]) -> set[str]:
    """Returns the modules that hold a parameter which serves elsewhere too."""
    owners: dict[nn.Parameter, set[str]] = {}
    for name, module in trace.modules.items():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, set()).add(name)
    for node in trace.graph.nodes:
        if node.op == "get_attr" and node.target in parameters and _reads_values(node):
            owner = str(node.target).rpartition(".")[0]
            owners.setdefault(parameters[node.target], set()).add(owner)
    return {name for names in owners.values() if len(names) > 1 for name in names}


def _reads_values(node: fx.Node) -> bool:
    """Returns whether anything reads more of a tensor than where and of what type it is."""
    facts = ("device", "dtype")
    return not all(user.target is getattr and user.args[1] in facts for user in node.users)


def _maps_one_tensor(node: fx.Node) -> bool:
    sources = _tensors_read(node)
    return len(sources) == 1 and all(_is_tensor_shape(n.meta["shape"]) for n in (*sources, node))


def _tensors_read(node: fx.Node) -> list[fx.Node]:
    """Returns the operands of a node that are tensors, not sizes."""
    return [source for source in node.all_input_nodes if source.meta["shape"] is not None]


def _is_tensor_shape(shape: Any) -> bool:
    return bool(shape) and all(isinstance(size, int) for size in shape)


def _extent(module: nn.Module, coupling: Coupling, y_shape: Shape) -> tuple[int, int, int]:
    """Returns input channels, output channels and output elements per channel."""
    if coupling.outputs is None:
        width = 0 if coupling.inputs is None else len(coupling.inputs)
        return width, width, 0
    inputs = module.in_channels if hasattr(module, "in_channels") else module.in_features
    assert coupling.result is not None
    return int(inputs), len(coupling.outputs), places(y_shape, coupling.result.axis)  # type: ignore[arg-type]


def _as_counted(module: nn.Module, coupling: Coupling, y_shape: Shape, macs: int) -> Coupling:
    """Returns the coupling of a subclass that multiplies more, or less, than its base."""
    inputs, outputs, _ = _extent(module, coupling, y_shape)
    pairs = outputs * (1 if coupling.grouped else inputs)
    per_pair, rest = divmod(macs * coupling.pair_share, pairs)
    return coupling if rest else replace(coupling, macs_per_pair=per_pair)


def _gates(
    trace: Trace, values: Mapping[fx.Node, Value], ids: ChannelIds
) -> list[tuple[str, Ids, int]]:
    """Returns gates at the best places, and wherever else a channel has none."""
    gates = list(_gates_on(gate_nodes(trace), values))
    gated = np.zeros(len(ids.all()), dtype=bool)
    for _, channels, _ in gates:
        gated[ids.find(channels)] = True
    others = _gates_on(weighted_ends(trace), values)
    return gates + [gate for gate in others if not gated[ids.find(gate[1])].any()]


def _gates_on(
    nodes: Iterable[fx.Node], values: Mapping[fx.Node, Value]
) -> Iterator[tuple[str, Ids, int]]:
    for node in nodes:
        value = values[node]
        if isinstance(value, Channels) and value.ids.ndim == 1:
            yield node.name, value.ids, value.axis
