"""Multiply-adds, parameters and activation bytes at any widths."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from dmcp_deploy.network.bilinear import Bilinear, Product
from dmcp_deploy.network.graph import Layer, Network, Units
from dmcp_deploy.network.layers import WEIGHTED
from dmcp_deploy.network.linear import Side


@dataclass(frozen=True)
class LayerCost:
    """What one convolution or linear layer costs for one image.

    Attributes:
        name: The module's name.
        kind: "conv", "transposed", "linear", or "other" for all that is convolved or multiplied in
            a module or operation outside the layer table, of which only MACs and parameters are
            known.
        in_channels: Channels it reads.
        out_channels: Channels it writes.
        macs: Multiply-adds.
        params: Parameters, the bias included.
        activation_bytes: Bytes of its output in FP32.
    """

    name: str
    kind: str
    in_channels: int
    out_channels: int
    macs: int
    params: int
    activation_bytes: int


class NetworkCost:
    """The cost of a network as a function of its group widths.

    MACs are those of convolution and linear layers, without bias, for one image: the convention
    of the paper's table. A layer's MACs are a constant times its input width times its output
    width, and each of those widths is linear in the widths of the groups.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._layers = [la for la in network.layers.values() if la.kind in WEIGHTED]
        layers = (Product(*_sides(la), la.macs_per_pair, la.pair_share) for la in self._layers)
        others = (
            Product((p.ids, len(p.ids)), (None, 1), p.macs, len(p.ids)) for p in network.products
        )
        self.multiply_adds = Bilinear(network, sum(network.fixed_macs.values()), [*layers, *others])

    @cached_property
    def parameters(self) -> Bilinear:
        """The parameters of the network, biases and those of normalisations included."""
        products, uncut = [], sum(p.numel() for p in self._network.weights.values())
        for parameter, cuts in _cut_parameters(self._network):
            sizes = [parameter.shape[dim] for dim, _ in cuts]
            sides = [(units, size) for (_, units), size in zip(cuts, sizes, strict=True)]
            inputs, outputs = [*sides, (None, 1)][:2]
            products.append(Product(inputs, outputs, parameter.numel() // math.prod(sizes)))
            uncut -= parameter.numel()
        return Bilinear(self._network, uncut, products)

    def units(self, widths: Mapping[str, int]) -> np.ndarray:
        """Returns the units kept per prunable group, shape [groups]; absent groups are whole."""
        groups = self._network.prunable
        return np.array([widths.get(g.name, g.size) // g.unit for g in groups], dtype=np.int64)

    def macs(self, units: np.ndarray) -> int:
        """Returns the multiply-adds at the units [groups] kept by each prunable group."""
        return self.multiply_adds.at(units)

    def macs_at(self, widths: Mapping[str, int]) -> int:
        """Returns the multiply-adds at given group widths in channels."""
        return self.macs(self.units(widths))

    @property
    def full_macs(self) -> int:
        """Multiply-adds of the full network."""
        return self.macs_at({})

    def params(self, widths: Mapping[str, int]) -> int:
        """Returns the parameters at given group widths."""
        return self.parameters.at(self.units(widths))

    def layer_costs(self, widths: Mapping[str, int]) -> list[LayerCost]:
        """Returns what every layer costs at given group widths; their MACs add up to the whole."""
        units = self.units(widths)
        kept = _kept(self._network, units)
        sides = self.multiply_adds.inputs(units), self.multiply_adds.outputs(units)
        rows = zip(self._layers, *sides, strict=False)
        listed = [
            LayerCost(
                name=layer.name,
                kind=layer.kind,
                in_channels=_width(layer.inputs, layer.in_channels, kept),
                out_channels=_width(layer.outputs, layer.out_channels, kept),
                macs=layer.macs_per_pair * int(into * out) // layer.pair_share,
                params=sum(now for _, now in _sizes(self._network, layer, kept)),
                activation_bytes=int(out) * layer.positions * 4,
            )
            for layer, into, out in rows
        ]
        others = [*self._network.fixed_macs, *(product.name for product in self._network.products)]
        return listed + [self._other_cost(name, kept) for name in dict.fromkeys(others)]

    def _other_cost(self, name: str, kept: np.ndarray) -> LayerCost:
        modules = dict(self._network.model.named_modules())
        own = modules[name].parameters() if name in modules else ()
        params = sum(parameter.numel() for parameter in own)
        macs = self._network.fixed_macs.get(name, 0)
        for product in self._network.products:
            if product.name == name:
                macs += product.macs * _count(product.ids, kept) // len(product.ids)
        return LayerCost(name, "other", 0, 0, macs, params, 0)


def _sides(layer: Layer) -> tuple[Side, Side]:
    """Returns what a layer reads for each output, and its outputs."""
    inputs: Side = (None, 1) if layer.grouped else (layer.inputs, layer.in_channels)
    return inputs, (layer.outputs, layer.out_channels)


def _cut_parameters(network: Network) -> Iterator[tuple[Tensor, Sequence[tuple[int, Units]]]]:
    """Yields the parameters that narrow with groups, and along which dimensions."""
    for layer in network.layers.values():
        module = network.model.get_submodule(layer.name)
        for name, parameter in module.named_parameters(recurse=False):
            if cuts := layer.cuts.get(name, ()):
                yield parameter, cuts
    for name, cut in network.parameters.items():
        yield network.model.get_parameter(name), (cut,)


def _kept(network: Network, units: np.ndarray) -> np.ndarray:
    """Returns whether each unit is kept, with a last entry that stands for what always is."""
    kept = np.ones(network.unit_count + 1, dtype=bool)
    for group, count in zip(network.prunable, units, strict=True):
        kept[group.first + int(count) : group.first + group.units] = False
    return kept


def _count(units: Units, kept: np.ndarray) -> int:
    return int(np.count_nonzero(kept[units]))


def _width(units: Units | None, whole: int, kept: np.ndarray) -> int:
    return whole if units is None else _count(units, kept)


def _sizes(network: Network, layer: Layer, kept: np.ndarray) -> list[tuple[int, int]]:
    """Returns (whole, kept) elements of each parameter of a layer."""
    module = network.model.get_submodule(layer.name)
    sizes = []
    for name, parameter in module.named_parameters(recurse=False):
        now = parameter.numel()
        for dim, units in layer.cuts.get(name, ()):
            now = now // parameter.shape[dim] * _count(units, kept)
        sizes.append((parameter.numel(), now))
    return sizes
