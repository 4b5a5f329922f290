"""Costs that are sums of products of two widths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dmcp_deploy.network.bilinear import Bilinear
from dmcp_deploy.search import markov
from dmcp_deploy.search.costs.protocol import Term
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.units import format_quantity


class BilinearCost:
    """What multiply-adds, parameters and bytes of weights share as costs.

    Attributes:
        name: The quantity.
        exact_terms: Whether `terms` add up to `at`.
        steps: Channels by which the cost of each group steps up: 1, shape [groups].
    """

    name: str
    exact_terms = True

    def __init__(self, quantity: Bilinear, space: SearchSpace, scale: int = 1) -> None:
        """Makes a cost of a quantity, each of which counts `scale` times."""
        self._quantity, self._scale = quantity, scale
        self.steps = np.ones(len(space.names), np.int64)
        self._minimum = torch.from_numpy(space.minimum).double()
        self._step = torch.from_numpy(space.step).double()

    def at(self, units: np.ndarray) -> float:
        """Returns the cost of a plan, units [groups]."""
        return float(self._scale * self._quantity.at(units))

    def expected(self, probabilities: Tensor) -> Tensor:
        """Returns the expected cost; see `Cost.expected`."""
        moments = markov.width_moments(probabilities, self._minimum, self._step)
        return self._scale * self._quantity.expected(*moments)

    def terms(self, axes: Sequence[np.ndarray]) -> list[Term]:
        """Returns the cost as a constant, a part for each group, and one for each pair of them."""
        whole = self._quantity.quadratic()
        rows = [np.asarray(axis, dtype=np.float64) for axis in axes]
        terms = [Term((), np.array(self._scale * whole.constant))]
        for group, row in enumerate(rows):
            values = whole.linear[group] * row + whole.square[group, group] * row**2
            terms.append(Term((group,), self._scale * values))
        for first, second in np.argwhere(np.triu(whole.square, 1)).tolist():
            pairs = np.outer(rows[first], rows[second])
            terms.append(Term((first, second), self._scale * whole.square[first, second] * pairs))
        return terms

    def text(self, value: float) -> str:
        """Returns a value with its unit: "211.0M multiply-adds"."""
        return format_quantity(self.name, value)
