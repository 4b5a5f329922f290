"""Costs that are random tables, and what widths are worth at random: for decoding."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dmcp_deploy.search.costs.limits import Limit, Limits
from dmcp_deploy.search.costs.protocol import Cost, Term
from dmcp_deploy.search.space import SearchSpace

#: Limits, the units on offer of each group, and what each is worth.
Case = tuple[Limits, list[np.ndarray], list[np.ndarray]]


@dataclass(frozen=True)
class TableCost:
    """A cost given by its terms on one set of axes, times what they are wrong by."""

    parts: list[Term]
    axes: list[np.ndarray]
    wrong: float = 1.0
    name = "milliseconds"

    @property
    def exact_terms(self) -> bool:
        """Whether the terms add up to the cost."""
        return self.wrong == 1.0

    def at(self, units: np.ndarray) -> float:
        """Returns the cost of a plan."""
        places = [int(np.searchsorted(a, u)) for a, u in zip(self.axes, units, strict=True)]
        return self.wrong * float(
            sum(part.values[tuple(places[g] for g in part.groups)] for part in self.parts)
        )

    def expected(self, probabilities: Tensor) -> Tensor:
        """Is not needed for decoding."""
        raise NotImplementedError

    def terms(self, axes: Sequence[np.ndarray]) -> list[Term]:
        """Returns the terms."""
        assert all(np.array_equal(a, b) for a, b in zip(axes, self.axes, strict=True))
        return self.parts

    def text(self, value: float) -> str:
        """Returns the value with its unit."""
        return f"{value:.2f} ms"


def random_case(generator: np.random.Generator, shape: str, limits: int) -> Case:
    """Returns a problem of up to six groups of up to five widths, whose narrowest plan fits.

    Args:
        generator: Where random numbers come from.
        shape: Which pairs of groups cost something: "chain", "star" (blocks of two groups inside
            the first), or "dense": all.
        limits: How many limits there are.
    """
    count = int(generator.integers(1, 7))
    axes = [8 * np.arange(1, 1 + generator.integers(1, 6)) for _ in range(count)]
    costs = [_random_cost(generator, axes, _pairs(shape, count)) for _ in range(limits)]
    return Limits(tuple(_limit(generator, cost) for cost in costs)), axes, _worth(generator, axes)


def offered_widths(space: SearchSpace, count: int) -> list[np.ndarray]:
    """Returns at most `count` widths of each group, evenly spread up to the full one."""
    spread = [np.linspace(max(1, 0.1 * full), full, count) for full in space.full]
    return [np.unique(np.ceil(widths).astype(np.int64)) for widths in spread]


def staircase(generator: np.random.Generator, cost: Cost, axes: list[np.ndarray]) -> TableCost:
    """Returns a cost whose terms are those of another at widths rounded up, and scaled.

    Each term rounds each of its groups to a multiple of its own; it costs something to run it.
    """
    parts = []
    for term in cost.terms(axes):
        sides = [_rounded(generator, axes[group]) for group in term.groups]
        values = term.values[np.ix_(*sides)] if sides else term.values
        values = generator.uniform(0.5, 2.0) * (values + 0.1 * np.max(values))
        parts.append(Term(term.groups, values))
    return TableCost(parts, axes)


def bell_worth(generator: np.random.Generator, axes: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the log probabilities of widths around a random one for each group."""
    worth = []
    for axis in axes:
        middle, spread = generator.uniform(0.2, 1.0), generator.uniform(0.05, 0.25)
        likely = np.exp(-(((axis / axis[-1] - middle) / spread) ** 2) / 2) + 1e-4
        likely *= np.exp(generator.normal(0, 0.2, len(axis)))
        worth.append(np.log(likely / likely.sum()))
    return worth


def _pairs(shape: str, count: int) -> list[tuple[int, int]]:
    if shape == "chain":
        return list(itertools.pairwise(range(count)))
    if shape == "dense":
        return list(itertools.combinations(range(count), 2))
    return [*((0, g) for g in range(1, count)), *((g, g + 1) for g in range(1, count - 1, 2))]


def _random_cost(
    generator: np.random.Generator, axes: list[np.ndarray], pairs: list[tuple[int, int]]
) -> TableCost:
    parts = [Term((), np.array(generator.random()))]
    parts += [Term((g,), generator.random(len(axis)).cumsum()) for g, axis in enumerate(axes)]
    for first, second in pairs:
        values = 0.3 * generator.random((len(axes[first]), len(axes[second])))
        values = values.cumsum(0).cumsum(1)
        if generator.random() < 0.3:
            values = np.ceil(4 * values) / 4
        turned = generator.random() < 0.3
        parts.append(Term((second, first), values.T) if turned else Term((first, second), values))
    return TableCost(parts, axes)


def _limit(generator: np.random.Generator, cost: TableCost) -> Limit:
    least, most = (cost.at(np.array([axis[end] for axis in cost.axes])) for end in (0, -1))
    return Limit(cost, least + generator.uniform(0.02, 0.9) * (most - least), "4ms")


def _worth(generator: np.random.Generator, axes: list[np.ndarray]) -> list[np.ndarray]:
    """Returns numbers for each width: rising with it or not, with ties or without."""
    worth = []
    for axis in axes:
        row = generator.normal(size=len(axis))
        row = np.sort(row) if generator.random() < 0.5 else row
        worth.append(np.round(row) if generator.random() < 0.3 else row)
    return worth


def _rounded(generator: np.random.Generator, axis: np.ndarray) -> np.ndarray:
    multiple = int(generator.choice([4, 8, 16, 32]))
    up = np.minimum(-(-axis // multiple) * multiple, axis[-1])
    return np.asarray(np.searchsorted(axis, up))
