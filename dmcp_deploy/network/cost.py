"""Multiply-adds, parameters and activation bytes at any widths; expected multiply-adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmcp_deploy.network.graph import Layer, Network, Units
from dmcp_deploy.network.layers import WEIGHTED


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


class Cost:
    """The cost of a network as a function of its group widths.

    MACs are those of convolution and linear layers, without bias, for one image: the convention
    of the paper's table. A layer's MACs are a constant times its input width times its output
    width, and each of those widths is linear in the widths of the groups.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._layers = [la for la in network.layers.values() if la.kind in WEIGHTED]
        layers, products = self._layers, network.products
        inputs = [*map(_input_units, layers), *((p.ids, len(p.ids)) for p in products)]
        outputs = [*map(_output_units, layers), *[(None, 1)] * len(products)]
        factors = [*(la.macs_per_pair for la in layers), *(p.macs for p in products)]
        shares = [*(la.pair_share for la in layers), *(len(p.ids) for p in products)]
        self._inputs, self._outputs = _Linear(network, inputs), _Linear(network, outputs)
        self._factors, self._shares = np.array(factors, np.int64), np.array(shares, np.int64)
        self._fixed = sum(network.fixed_macs.values())

    def units(self, widths: Mapping[str, int]) -> np.ndarray:
        """Returns the units kept per prunable group, shape [groups]; absent groups are whole."""
        groups = self._network.prunable
        return np.array([widths.get(g.name, g.size) // g.unit for g in groups], dtype=np.int64)

    def macs(self, units: np.ndarray) -> int:
        """Returns the multiply-adds at the units [groups] kept by each prunable group."""
        pairs = self._inputs(units) * self._outputs(units)
        narrowing = self._factors * pairs // self._shares
        return self._fixed + int(narrowing.sum())

    def macs_at(self, widths: Mapping[str, int]) -> int:
        """Returns the multiply-adds at given group widths in channels."""
        return self.macs(self.units(widths))

    @property
    def full_macs(self) -> int:
        """Multiply-adds of the full network."""
        return self.macs_at({})

    def expected_macs(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Returns the expectation of the multiply-adds, exactly, and differentiable.

        Groups are independent, so E[in * out] is the product of the expectations, plus the
        variance of every group that is on both sides of a layer: there E[w^2] counts, which
        differs from E[w]^2 (DMCP, equation 8, uses the latter).

        Args:
            mean: Expected units per prunable group, shape [groups].
            variance: Variance of the units per prunable group, shape [groups].
        """
        into, out = self._inputs.tensors(mean), self._outputs.tensors(mean)
        both = (self._inputs.slope * self._outputs.slope).astype(np.float64)
        shared = torch.as_tensor(both, dtype=mean.dtype, device=mean.device) @ variance
        per_pair = self._factors / self._shares
        factors = torch.as_tensor(per_pair, dtype=mean.dtype, device=mean.device)
        return self._fixed + (factors * (into * out + shared)).sum()

    def params(self, widths: Mapping[str, int]) -> int:
        """Returns the parameters at given group widths."""
        kept = _kept(self._network, self.units(widths))
        total = sum(p.numel() for p in self._network.weights.values())
        for layer in self._network.layers.values():
            total += sum(kept_now - whole for whole, kept_now in _sizes(self._network, layer, kept))
        for name, (dim, units) in self._network.parameters.items():
            whole = self._network.model.get_parameter(name)
            total += (_count(units, kept) - whole.shape[dim]) * (whole.numel() // whole.shape[dim])
        return total

    def layer_costs(self, widths: Mapping[str, int]) -> list[LayerCost]:
        """Returns what every layer costs at given group widths; their MACs add up to the whole."""
        units = self.units(widths)
        kept = _kept(self._network, units)
        sides = self._inputs(units), self._outputs(units)
        rows = zip(self._layers, *sides, self._factors, strict=False)
        listed = [
            LayerCost(
                name=layer.name,
                kind=layer.kind,
                in_channels=_width(layer.inputs, layer.in_channels, kept),
                out_channels=_width(layer.outputs, layer.out_channels, kept),
                macs=int(factor * into * out) // layer.pair_share,
                params=sum(now for _, now in _sizes(self._network, layer, kept)),
                activation_bytes=int(out) * layer.positions * 4,
            )
            for layer, into, out, factor in rows
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


class _Linear:
    """Widths of several layers as linear functions of the units kept per group."""

    def __init__(self, network: Network, sides: list[tuple[Units | None, int]]) -> None:
        groups = network.prunable
        self.slope = np.zeros((len(sides), len(groups)), dtype=np.int64)
        self.fixed = np.zeros(len(sides), dtype=np.int64)
        for row, (units, width) in enumerate(sides):
            if units is None:
                self.fixed[row] = width
                continue
            self.fixed[row] = int((units < 0).sum())
            counts = np.bincount(units[units >= 0], minlength=network.unit_count)
            self.slope[row] = [counts[group.first] for group in groups]

    def __call__(self, units: np.ndarray) -> np.ndarray:
        return np.asarray(self.fixed + self.slope @ units)

    def tensors(self, units: Tensor) -> Tensor:
        slope = torch.as_tensor(self.slope, dtype=units.dtype, device=units.device)
        fixed = torch.as_tensor(self.fixed, dtype=units.dtype, device=units.device)
        return fixed + slope @ units


def _input_units(layer: Layer) -> tuple[Units | None, int]:
    return (None, 1) if layer.grouped else (layer.inputs, layer.in_channels)


def _output_units(layer: Layer) -> tuple[Units | None, int]:
    return layer.outputs, layer.out_channels


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
