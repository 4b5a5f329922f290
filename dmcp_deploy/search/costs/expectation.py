"""The exact expectation of a bilinear form of rounded sums under the groups' distributions.

Groups are independent, so is what two sides without a common group expect. A common group is
conditioned on. A rounded sum is the sum and what it lacks to the next multiple, which the sum
modulo the rounding tells: so the distributions that are convolved for a concatenation are no
longer than the roundings' common multiple, however many channels it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor

from dmcp_deploy.bench.tables.model import IntArray
from dmcp_deploy.search.costs.rounded import PerUnit, RoundedForm, RoundedSum, linear_sums


class Expectation:
    """E[form], differentiable; all that does not depend on the probabilities is computed once."""

    def __init__(self, form: RoundedForm, units: IntArray) -> None:
        """Prepares for groups that keep units[g, k] with probabilities[g, k].

        Args:
            form: What is expected.
            units: The units on offer, shape [groups, K + 1].
        """
        pairs = {(form.sides[s], form.sides[t]): ms for (s, t), ms in form.products.items()}
        within = {pair for pair in pairs if pair[0].groups == pair[1].groups and pair[0].is_single}
        shared = {pair for pair in pairs if pair[0].groups & pair[1].groups} - within
        common = {pair: _Common(*pair, units) for pair in pairs if pair in shared}
        left = (side for one in common.values() for pair in one.left for side in pair)
        self._means = _Means(list(dict.fromkeys([*form.sides, *left])), units)
        places = self._means.places
        linear, products = np.zeros(len(places)), np.zeros((len(places), len(places)))
        linear[[places[side] for side in form.sides]] = form.linear
        squares = np.zeros(units.shape)
        for (first, second), ms in pairs.items():
            if (first, second) in within:
                (group,) = first.groups
                squares[group] += ms * first.at(units) * second.at(units)
            elif (first, second) not in shared:
                products[places[first], places[second]] = ms
        self._constant = form.constant
        self._linear, self._products = torch.from_numpy(linear), torch.from_numpy(products)
        self._squares = torch.from_numpy(squares)
        self._common = [
            (pairs[pair], one, torch.tensor([[places[side] for side in both] for both in one.left]))
            for pair, one in common.items()
        ]

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Returns the expectation, a scalar, for probabilities [groups, K + 1], float64."""
        means = self._means(probabilities)
        value = self._constant + means @ (self._linear + self._products @ means)
        value = value + (probabilities * self._squares).sum()
        for ms, common, places in self._common:
            first, second = means[places].unbind(1)
            value = value + ms * (common.chances(probabilities) * first * second).sum()
        return value


class _Means:
    """E[R] of rounded sums, shape [sides].

    Attributes:
        places: Rounded sum -> its place.
    """

    def __init__(self, sides: Sequence[RoundedSum], units: IntArray) -> None:
        single = [side for side in sides if side.is_single]
        sums = [side for side in sides if not side.is_single]
        self.places = {side: place for place, side in enumerate([*single, *sums])}
        self._groups = torch.tensor([side.per_unit[0][0] for side in single], dtype=torch.int64)
        tables = [side.at(units) for side in single]
        self._tables = torch.from_numpy(np.array(tables, np.float64).reshape(-1, units.shape[1]))
        self._sums = _SumMeans(sums, units) if sums else None

    def __call__(self, probabilities: Tensor) -> Tensor:
        means = (probabilities.index_select(0, self._groups) * self._tables).sum(1)
        return means if self._sums is None else torch.cat([means, self._sums(probabilities)])


class _SumMeans:
    """E[R] of rounded sums of any number of groups: E[sum] and what is lacking on average."""

    def __init__(self, sums: Sequence[RoundedSum], units: IntArray) -> None:
        modulus = math.lcm(*(side.rounding for side in sums))
        # A sum that is not rounded lacks nothing: its distribution is not needed.
        chains = [side.per_unit if side.rounding > 1 else () for side in sums]
        self._residues = _Residues(chains, units, modulus)
        self._rows = torch.tensor([self._residues.rows[chain] for chain in chains])
        residues = np.arange(modulus)
        lacking = [side.rounded(residues) - side.fixed - residues for side in sums]
        self._sums = linear_sums(sums, len(units))
        self._units = torch.from_numpy(units).double()
        self._lacking = torch.from_numpy(np.array(lacking)).double()

    def __call__(self, probabilities: Tensor) -> Tensor:
        sums = self._sums.tensors((probabilities * self._units).sum(1))
        residues = self._residues(probabilities).index_select(0, self._rows)
        return sums + (residues * self._lacking).sum(1)


class _Residues:
    """Distributions of sums modulo a number; sums that begin alike share what is convolved.

    Attributes:
        rows: What the groups of a sum add -> its row.
    """

    def __init__(self, chains: Iterable[PerUnit], units: IntArray, modulus: int) -> None:
        beginnings = {chain[:end] for chain in chains for end in range(1, len(chain) + 1)}
        by_length = sorted(beginnings, key=lambda chain: (len(chain), chain))
        levels = [tuple(same) for _, same in groupby(by_length, key=len)]
        self.rows = {chain: row for row, chain in enumerate([(), *by_length])}
        self._levels = [
            _level(level, before, units, modulus) for before, level in pairwise([((),), *levels])
        ]
        self._nothing = torch.zeros(1, modulus, dtype=torch.float64)
        self._nothing[0, 0] = 1.0

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Returns P(sum = q modulo the number), shape [rows, modulus]."""
        levels = [self._nothing]
        for groups, sources in self._levels:
            before = levels[-1].flatten().index_select(0, sources.flatten()).view(sources.shape)
            chances = probabilities.index_select(0, groups)
            levels.append((before * chances[:, None, :]).sum(2))
        return torch.cat(levels)


def _level(
    chains: Sequence[PerUnit], before: Sequence[PerUnit], units: IntArray, modulus: int
) -> tuple[Tensor, Tensor]:
    """Returns what makes the distributions of sums from those of the sums one group shorter.

    Args:
        chains: The sums.
        before: The shorter ones.
        units: The units on offer, shape [groups, K + 1].
        modulus: The number.

    Returns:
        The last group of each sum, shape [chains], and the places in the flat distributions
        before that each of its widths moves to a residue, shape [chains, modulus, K + 1].
    """
    last = np.array([chain[-1] for chain in chains])
    parents = np.array([before.index(chain[:-1]) for chain in chains])
    added = last[:, 1, None] * units[last[:, 0]]
    residues = (np.arange(modulus)[None, :, None] - added[:, None, :]) % modulus
    sources = parents[:, None, None] * modulus + residues
    return torch.from_numpy(last[:, 0].copy()), torch.from_numpy(sources)


class _Common:
    """What the groups that two sides have in common add to each of them.

    Attributes:
        left: What is then left of either side, for every pair of numbers of channels.
    """

    def __init__(self, first: RoundedSum, second: RoundedSum, units: IntArray) -> None:
        groups = first.groups & second.groups
        added = np.zeros((1, 2), np.int64)
        self._steps: list[tuple[int, Tensor, int]] = []
        for group in sorted(groups):
            per_unit = np.array([dict(side.per_unit)[group] for side in (first, second)])
            sums = added[:, None, :] + units[group][:, None] * per_unit
            added, places = np.unique(sums.reshape(-1, 2), axis=0, return_inverse=True)
            self._steps.append((group, torch.from_numpy(places.reshape(-1)), len(added)))
        self.left = [(first.given(groups, a), second.given(groups, b)) for a, b in added.tolist()]

    def chances(self, probabilities: Tensor) -> Tensor:
        """Returns the probability of each pair of numbers of channels, shape [pairs]."""
        chances = probabilities.new_ones(1)
        for group, places, size in self._steps:
            both = (chances[:, None] * probabilities[group]).flatten()
            chances = probabilities.new_zeros(size).index_add(0, places, both)
        return chances
