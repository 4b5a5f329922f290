"""A latency model as sums and products of rounded widths of the groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dmcp_deploy.bench.tables.fit import Array
from dmcp_deploy.bench.tables.model import IntArray, LatencyModel
from dmcp_deploy.bench.tables.probes import WidthForm
from dmcp_deploy.network.linear import LinearWidths

#: Group's number and channels for each of its units, by ascending group.
PerUnit = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class RoundedSum:
    """A layer's channels, rounded up as its kernels do: ceil(sum / rounding) * rounding.

    Attributes:
        fixed: Channels that are always there.
        per_unit: The channels that each unit of a group adds.
        rounding: Of the sum.
    """

    fixed: int
    per_unit: PerUnit
    rounding: int

    @property
    def groups(self) -> frozenset[int]:
        """The groups that the sum depends on."""
        return frozenset(group for group, _ in self.per_unit)

    @property
    def is_single(self) -> bool:
        """Whether the sum depends on one group alone."""
        return len(self.per_unit) == 1

    def at(self, units: IntArray) -> IntArray:
        """Returns the rounded sum of a single group at units on offer [groups, K + 1]: [K + 1]."""
        ((group, channels),) = self.per_unit
        return self.rounded(channels * units[group])

    def rounded(self, channels: IntArray) -> IntArray:
        """Returns the rounded sum when the groups add some channels, of any shape."""
        return np.asarray(-(-(self.fixed + channels) // self.rounding) * self.rounding)

    def given(self, groups: frozenset[int], channels: int) -> RoundedSum:
        """Returns what is left of the sum when some of its groups are known to add channels."""
        rest = tuple(item for item in self.per_unit if item[0] not in groups)
        return RoundedSum(self.fixed + channels, rest, self.rounding)


@dataclass(frozen=True)
class RoundedForm:
    """constant + sum of linear[s] * R_s + sum of products[s, t] * R_s * R_t, none below zero.

    Attributes:
        constant: What is always paid, in milliseconds.
        sides: The rounded sums R, all different, each with a group.
        linear: Milliseconds a channel of each side, shape [sides].
        products: Numbers of two sides, ascending -> milliseconds a pair of channels.
    """

    constant: float
    sides: tuple[RoundedSum, ...]
    linear: Array
    products: dict[tuple[int, int], float]


def rounded_form(model: LatencyModel, groups: Sequence[str]) -> RoundedForm:
    """Returns the milliseconds of a model as a form over groups in a given order.

    Layers with the same channels share a side, and what no group moves is constant. The model
    must know how the channels of all layers follow from the groups.
    """
    numbers = {name: number for number, name in enumerate(groups)}
    constant, linear = model.fixed_ms, defaultdict[RoundedSum, float](float)
    products = defaultdict[tuple[RoundedSum, RoundedSum], float](float)
    times = zip(model.layers.rounding.tolist(), model.layers.coefficients.tolist(), strict=True)
    for form, (roundings, factors) in zip(model.forms, times, strict=True):
        assert form is not None
        widths = zip((form.inputs, form.outputs), roundings, strict=True)
        read, written = (_side(width, rounding, numbers) for width, rounding in widths)
        constant += factors[0]
        linear[read] += factors[1]
        linear[written] += factors[2]
        products[read, written] += factors[3]
    return _moved(constant, linear, products)


def linear_sums(sides: Sequence[RoundedSum], groups: int) -> LinearWidths:
    """Returns sums before they are rounded, over so many groups."""
    slope = np.zeros((len(sides), groups))
    for row, side in zip(slope, sides, strict=True):
        for group, channels in side.per_unit:
            row[group] = channels
    return LinearWidths(np.array([side.fixed for side in sides], np.float64), slope)


def _side(form: WidthForm, rounding: int, numbers: dict[str, int]) -> RoundedSum:
    per_unit = sorted((numbers[name], count) for name, count in form.per_unit.items() if count)
    return RoundedSum(form.fixed, tuple(per_unit), rounding)


def _moved(
    constant: float,
    linear: dict[RoundedSum, float],
    products: dict[tuple[RoundedSum, RoundedSum], float],
) -> RoundedForm:
    """Returns the form with what no group moves made constant, and zeros left out."""
    for (first, second), ms in products.items():
        if not first.per_unit:
            linear[second] += ms * _fixed(first)
        elif not second.per_unit:
            linear[first] += ms * _fixed(second)
    constant += sum(ms * _fixed(side) for side, ms in linear.items() if not side.per_unit)
    pairs = {pair: ms for pair, ms in products.items() if ms and all(s.per_unit for s in pair)}
    alone = [side for side, ms in linear.items() if ms and side.per_unit]
    sides = tuple(dict.fromkeys([*alone, *(side for pair in pairs for side in pair)]))
    places = {side: place for place, side in enumerate(sides)}
    numbered = defaultdict[tuple[int, int], float](float)
    for pair, ms in pairs.items():
        low, high = sorted(places[side] for side in pair)
        numbered[low, high] += ms
    return RoundedForm(constant, sides, np.array([linear[side] for side in sides]), dict(numbered))


def _fixed(side: RoundedSum) -> int:
    return int(side.rounded(np.array(0)))
