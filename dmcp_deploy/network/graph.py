"""A traced network and its channel groups: the sets of channels that live or go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from dmcp_deploy.network.channels import Ids
from dmcp_deploy.network.coupling import INPUT_REASON, OUTPUT_REASON, Couplings, Producer, Product
from dmcp_deploy.network.layer_rules import Cuts
from dmcp_deploy.network.rewrites import Rewrite
from dmcp_deploy.network.trace import Trace, called_modules, fetch
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.text_table import few

Units = Ids  # Unit numbers: within a group, or within the network, where -1 is always kept.


@dataclass(frozen=True)
class Group:
    """Channels of several layers that must be kept alike.

    Attributes:
        name: The first layer that produces them.
        size: Channels of that layer in the group.
        unit: Channels that can only go together: 1, but for grouped convolutions and shuffles.
        layers: The layers that produce or normalise these channels, in order.
        reason: Why the group is kept whole; None if it can be pruned.
        first: Number of its first unit among all units of the network; -1 if it is kept whole.
        unit_of: Number within the group of the unit that each channel belongs to, shape [size].
    """

    name: str
    size: int
    unit: int
    layers: tuple[str, ...]
    reason: str | None
    first: int
    unit_of: Units = field(repr=False, compare=False)

    @property
    def prunable(self) -> bool:
        """Whether the group may be narrowed."""
        return self.reason is None

    @property
    def units(self) -> int:
        """Units of the group."""
        return self.size // self.unit


@dataclass(frozen=True)
class Layer:
    """A layer that narrows with its groups.

    Attributes:
        name: The module's name in the network.
        kind: Its kind in the layer table.
        cuts: Tensor name -> (dimension, unit number of each position; -1 is always kept), first
            along what makes the channels.
        inputs: Unit numbers of its input channels; None if the layer reads them whole.
        outputs: Unit numbers of the channels it produces; None for a layer that passes them on.
        macs_per_pair: Multiply-adds per pair of channels (per output channel if grouped).
        grouped: Whether the cost grows with the outputs alone.
        pair_share: Of how many pairs of channels one is computed.
        in_channels: Channels it reads in the full network.
        out_channels: Channels it writes in the full network.
        positions: Output elements per channel for one image.
    """

    name: str
    kind: str
    cuts: Cuts
    inputs: Units | None
    outputs: Units | None
    macs_per_pair: int
    grouped: bool
    pair_share: int
    in_channels: int
    out_channels: int
    positions: int


@dataclass(frozen=True)
class Network:
    """A network, its graph and its channel groups.

    Attributes:
        spec: How to build it again.
        model: The network itself, untouched.
        graph: Its forward pass over the same modules.
        constants: What else the graph reads, by name.
        groups: All groups but those of the network's input and output, in order.
        layers: Module name -> layer, for all layers of the layer table with tensors.
        parameters: Name of a bare parameter -> its cut, where the graph reads one directly.
        gates: Node name -> unit numbers of its channels and their axis: where the search
            multiplies activations by the probability that their channel is kept.
        opaque: Modules that could not be traced and are kept whole -> why.
        fixed_macs: Module or operation outside the layer table -> multiply-adds for one image of
            the convolutions and linear layers in it; they never narrow.
        products: Operations whose multiply-adds grow with some channels, by unit numbers.
        rewrites: Node name -> what it counts in place of numbers of channels that the forward
            pass writes down: the dense network is then the graph, not the stock class.
        dropped: What the model's own forward calls in vain, and the graph does not.
        only_in_training: Modules and parameters that the model's own forward reads in training
            mode alone; "output" where it returns several things then.
        left_out: Operations of the model's own forward in training mode that the graph is without.
    """

    spec: NetworkSpec
    model: nn.Module
    graph: fx.Graph
    constants: Mapping[str, Tensor]
    groups: tuple[Group, ...]
    layers: Mapping[str, Layer]
    parameters: Mapping[str, tuple[int, Units]]
    gates: Mapping[str, tuple[Units, int]]
    opaque: Mapping[str, str]
    fixed_macs: Mapping[str, int]
    products: tuple[Product, ...]
    rewrites: Mapping[str, Rewrite]
    dropped: tuple[str, ...] = ()
    only_in_training: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @cached_property
    def prunable(self) -> tuple[Group, ...]:
        """The groups that may be narrowed, in order."""
        return tuple(group for group in self.groups if group.prunable)

    @cached_property
    def free_channels(self) -> int:
        """Channels that layers make and that may go."""
        made = [la.outputs for la in self.layers.values() if la.outputs is not None]
        return sum(int((units >= 0).sum()) for units in made)

    @cached_property
    def unit_count(self) -> int:
        """Units of all prunable groups."""
        return sum(group.units for group in self.prunable)

    @property
    def graph_reason(self) -> str | None:
        """Why dense networks are the graph and not the stock class; None if they are that."""
        written = list(dict.fromkeys(rewrite.place for rewrite in self.rewrites.values()))
        reasons = {
            "numbers of channels are written down in": written,
            "its output does not depend on": self.dropped,
            "in training alone it calls": self.only_in_training,
            "a copy would share the full network's hooks of": list(_sharing_hooks(self.model)),
        }
        told = [f"{reason} {few(names)}" for reason, names in reasons.items() if names]
        return "; ".join(told) or None

    @cached_property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """The parameters that a dense network has of the model's, by name."""
        named = dict(self.model.named_parameters())
        if self.graph_reason is None:
            return named
        read = {str(node.target) for node in self.graph.nodes if node.op == "get_attr"}
        modules = called_modules(self.model, self.graph)
        return {n: p for n, p in named.items() if n in read or n.rpartition(".")[0] in modules}

    def fetch(self, target: str) -> Any:
        """Returns a module, parameter or constant by its path in the graph."""
        return fetch(self.model, self.constants, target)

    def sizes(self) -> dict[str, int]:
        """Returns the channels of every group."""
        return {group.name: group.size for group in self.groups}


def _sharing_hooks(model: nn.Module) -> Iterator[str]:
    """Yields the modules with hooks whose functions hold objects that a copy does not copy."""
    for name, module in model.named_modules():
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        cells = [cell for hook in hooks for cell in getattr(hook, "__closure__", None) or ()]
        if not all(isinstance(cell.cell_contents, str | int | float) for cell in cells):
            yield name or type(model).__name__


def assemble(spec: NetworkSpec, model: nn.Module, trace: Trace, couplings: Couplings) -> Network:
    """Returns the network whose channels are tied and pinned as `couplings` says."""
    roots = couplings.ids.find(couplings.ids.all())
    bundles = _bundles(couplings, roots)
    unit_of_root, firsts = _number_units(bundles, len(roots))
    numbering = _Numbering(unit_of_root[roots])
    gates = {name: (numbering(ids), axis) for name, ids, axis in couplings.gates}
    network = Network(
        spec=spec,
        model=model,
        graph=trace.graph,
        constants=trace.constants,
        groups=_groups(bundles, firsts, couplings.producers, roots),
        layers={producer.name: numbering.layer(producer) for producer in couplings.producers},
        parameters={name: (dim, numbering(ids)) for name, dim, ids in couplings.parameters},
        gates={name: gate for name, gate in gates.items() if gate[0].max() >= 0},
        opaque=trace.opaque,
        fixed_macs=couplings.fixed_macs,
        products=tuple(replace(p, ids=numbering(p.ids)) for p in couplings.products),
        rewrites={name: r.numbered(numbering) for name, r in couplings.rewrites.items()},
        dropped=trace.dropped,
        only_in_training=trace.extra.weighted,
        left_out=trace.extra.plain,
    )
    uneven = _uneven_group(network)
    if uneven is None:
        return network
    couplings.refuse(uneven, "a layer uses its channels unevenly")
    return assemble(spec, model, trace, couplings)


@dataclass
class _Bundle:
    """The channels that appear in just the same producers, and parts of them."""

    name: str
    size: int
    unit: int
    roots: Ids
    unit_of: Units
    reason: str | None


class _Numbering:
    """Identities -> unit numbers."""

    def __init__(self, unit_of_id: Units) -> None:
        self._unit_of_id = unit_of_id
        self._numbered: dict[int, tuple[Ids, Units]] = {}

    def __call__(self, ids: Ids) -> Units:
        """Returns the unit of each identity; the same array for the same array."""
        if id(ids) not in self._numbered:
            self._numbered[id(ids)] = ids, self._unit_of_id[ids]
        return self._numbered[id(ids)][1]

    def layer(self, producer: Producer) -> Layer:
        coupling = producer.coupling
        cuts = {
            name: tuple((dim, self(ids)) for dim, ids in parts)
            for name, parts in coupling.cuts.items()
        }
        return Layer(
            name=producer.name,
            kind=producer.kind,
            cuts=cuts,
            inputs=None if coupling.inputs is None else self(coupling.inputs),
            outputs=None if coupling.outputs is None else self(coupling.outputs),
            macs_per_pair=coupling.macs_per_pair,
            grouped=coupling.grouped,
            pair_share=coupling.pair_share,
            in_channels=producer.in_channels,
            out_channels=producer.out_channels,
            positions=producer.positions,
        )


def _bundles(couplings: Couplings, root_of_id: Ids) -> list[_Bundle]:
    """Returns the channels bundled by the producers and parts they appear in, in order."""
    made = [
        (producer.name, root_of_id[producer.coupling.outputs])
        for producer in couplings.producers
        if producer.coupling.outputs is not None
    ]
    parts = [root_of_id[part] for part in couplings.ids.parts]
    signature = _signatures(len(root_of_id), [*(roots for _, roots in made), *parts])
    pinned = couplings.ids.pinned()
    bundles: list[_Bundle] = []
    seen: set[int] = set()
    for name, roots in made:
        marks = dict.fromkeys(signature[roots].tolist())
        for mark in (m for m in marks if m not in seen):
            places = np.flatnonzero(signature[roots] == mark)
            part = f"{name}[{places[0]}:{places[-1] + 1}]" if len(marks) > 1 else name
            bundles.append(_bundle(part, roots[places], pinned))
        seen.update(marks)
    return bundles


def _signatures(count: int, arrays: list[Ids]) -> Ids:
    """Returns a number for every identity, equal for those that are in the same arrays."""
    signature = np.zeros(count, dtype=np.int64)
    known = 0
    for roots in arrays:
        olds, which = np.unique(signature[roots], return_inverse=True)
        signature[roots] = known + 1 + which
        known += len(olds)
    return signature


def _bundle(name: str, roots: Ids, pinned: Mapping[int, str]) -> _Bundle:
    _, first, inverse, counts = np.unique(
        roots, return_index=True, return_inverse=True, return_counts=True
    )
    ordered = roots[np.sort(first)]
    unit_of = np.argsort(np.argsort(first))[inverse]
    reason = next((pinned[r] for r in ordered.tolist() if r in pinned), None)
    if reason is None and len(set(counts.tolist())) > 1:
        reason = "its channels are tied unevenly"
    if reason is None and len(ordered) == 1:
        reason = "its channels can only go all together"
    return _Bundle(name, len(roots), int(counts[0]), ordered, unit_of, reason)


def _number_units(bundles: list[_Bundle], count: int) -> tuple[Units, list[int]]:
    """Returns the unit number of each of `count` roots, and the first of each bundle."""
    unit_of_root = np.full(count, -1, dtype=np.int64)
    firsts, used = [], 0
    for bundle in bundles:
        firsts.append(used if bundle.reason is None else -1)
        if bundle.reason is None:
            unit_of_root[bundle.roots] = np.arange(used, used + len(bundle.roots))
            used += len(bundle.roots)
    return unit_of_root, firsts


def _groups(
    bundles: list[_Bundle], firsts: list[int], producers: list[Producer], root_of_id: Ids
) -> tuple[Group, ...]:
    bundle_of_root = np.full(len(root_of_id), -1)
    for number, bundle in enumerate(bundles):
        bundle_of_root[bundle.roots] = number
    members: list[list[str]] = [[] for _ in bundles]
    for producer in producers:
        carried = producer.coupling.outputs
        if carried is None and producer.kind == "norm":
            carried = producer.coupling.inputs
        if carried is None:
            continue
        for number in set(bundle_of_root[root_of_id[carried]].tolist()) - {-1}:
            members[number].append(producer.name)
    return tuple(
        _group(bundle, tuple(layers), first)
        for bundle, layers, first in zip(bundles, members, firsts, strict=True)
        if bundle.reason not in (OUTPUT_REASON, INPUT_REASON)
    )


def _group(bundle: _Bundle, layers: tuple[str, ...], first: int) -> Group:
    pinned = bundle.reason is not None
    return Group(
        name=bundle.name,
        size=bundle.size,
        unit=1 if pinned else bundle.unit,
        layers=layers,
        reason=bundle.reason,
        first=first,
        unit_of=np.arange(bundle.size) if pinned else bundle.unit_of,
    )


def _uneven_group(network: Network) -> str | None:
    """Returns a group of which some layer reads or writes units a different number of times."""
    firsts = [group.first for group in network.prunable]
    if not firsts:
        return None
    for units in _distinct_sides(network):
        counts = np.bincount(units[units >= 0], minlength=network.unit_count)
        uneven = np.minimum.reduceat(counts, firsts) != np.maximum.reduceat(counts, firsts)
        if uneven.any():
            return network.prunable[int(uneven.argmax())].name
    return None


def _distinct_sides(network: Network) -> list[Units]:
    """Returns the units that layers read and write; layers in a row share the very arrays."""
    sides = [units for layer in network.layers.values() for units in (layer.inputs, layer.outputs)]
    return list({id(units): units for units in sides if units is not None}.values())
