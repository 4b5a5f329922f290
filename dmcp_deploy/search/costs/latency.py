"""Predicted milliseconds on one target as a cost of plans."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from dmcp_deploy.bench.tables.model import LatencyModel
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.search.costs.expectation import Expectation
from dmcp_deploy.search.costs.pairwise import pairwise_terms
from dmcp_deploy.search.costs.protocol import Term
from dmcp_deploy.search.costs.rounded import linear_sums, rounded_form
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.units import MILLISECONDS, format_quantity


class LatencyCost:
    """The milliseconds that a latency model predicts of a network's plans.

    Narrowing a group never raises them.

    Attributes:
        steps: Channels by which each group's time steps up, shape [groups].
        exact_terms: Whether `terms` add up to `at` on every grid: where nothing is rounded that
            is a sum of several groups.
    """

    name = MILLISECONDS

    def __init__(self, model: LatencyModel, space: SearchSpace) -> None:
        """Prepares all that depends on no plan.

        Args:
            model: The model of the network on the target.
            space: The network's groups and the widths that a search chooses from.

        Raises:
            DmcpError: The model is of other groups, or does not know how the channels of a layer
                follow from them.
        """
        _check(model, space)
        self._form, self._space = rounded_form(model, space.names), space
        self._rounding = np.array([side.rounding for side in self._form.sides], np.float64)
        self._widths = linear_sums(self._form.sides, len(space.names))
        pairs = np.array(list(self._form.products), np.int64).reshape(-1, 2)
        self._first, self._second = pairs.T.copy()
        self._products = np.array(list(self._form.products.values()))
        steps = model.steps()
        self.steps = np.array([steps[name] for name in space.names], np.int64)
        self.exact_terms = not any(s.rounding > 1 < len(s.per_unit) for s in self._form.sides)

    def at(self, units: np.ndarray) -> float:
        """Returns the predicted milliseconds of a plan, units [groups]."""
        rounded = np.ceil(self._widths(units) / self._rounding) * self._rounding
        pairs = rounded[self._first] * rounded[self._second]
        return float(self._form.constant + self._form.linear @ rounded + self._products @ pairs)

    def expected(self, probabilities: Tensor) -> Tensor:
        """Returns the exact expectation, a differentiable scalar.

        Args:
            probabilities: That a group keeps minimum + k * step units, shape [groups, K + 1],
                float64.
        """
        return self._expectation(probabilities)

    def terms(self, axes: Sequence[np.ndarray]) -> list[Term]:
        """Returns tables of at most two groups that add up to the cost on a grid of units.

        Where a concatenation is rounded they do so on grids of multiples of the rounding alone.
        """
        return pairwise_terms(self._form, axes)

    def text(self, value: float) -> str:
        """Returns a time in words."""
        return format_quantity(self.name, value)

    @functools.cached_property
    def _expectation(self) -> Expectation:
        space = self._space
        steps = np.minimum(np.arange(space.mask.shape[1] + 1)[None, :], space.count[:, None])
        return Expectation(self._form, space.minimum[:, None] + steps * space.step[:, None])


def _check(model: LatencyModel, space: SearchSpace) -> None:
    ours = dict(zip(space.names, (space.full * space.unit).tolist(), strict=True))
    theirs = {name: group.size for name, group in model.groups.items()}
    differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if differing:
        name = differing[0]
        raise DmcpError(
            f"The latency table has {theirs.get(name, 0)} channels in the group {name}, and the"
            f" network {ours.get(name, 0)}: build a table of this network."
        )
    for name, form in zip(model.layers.names, model.forms, strict=True):
        if form is None:
            raise DmcpError(
                f"How the channels of {name} follow from the groups is not known, so no plan's"
                " time can be predicted: build the table again with dmcp-deploy table probes."
            )
