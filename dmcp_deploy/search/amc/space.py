"""AMC's walk over the channel groups: what the agent sees of each, and what it may do."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from dmcp_deploy.network.graph import Group, Layer, Network
from dmcp_deploy.network.reconstruction import consumers
from dmcp_deploy.plan import LOWEST_SHARE
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.costs.protocol import Cost
from dmcp_deploy.search.fit import WidthGrid, fit_widths
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.space import SearchSpace

#: The least a group keeps of its channels (AMC).
LOWEST_RATIO = 0.2

#: Of a budget: what the narrowest plan may cost at most, so that there is something to choose.
_ROOM = 0.5


@dataclass(frozen=True)
class Walk:
    """The groups one after the other, and the budgets that bound every decision.

    Attributes:
        limits: The budgets.
        grid: The widths on offer; its lowest ones meet the budgets together.
        full: Units of every group, shape [groups].
        order: The groups' numbers, in the order in which they are decided upon.
        traits: What does not change about each group, in that order and between 0 and 1, shape
            [groups, 8]: its place, whether a linear layer reads it, channels, outputs of all
            layers that read it, then stride, kernel and positions of the first of those, and the
            cost that goes with it.
    """

    limits: Limits
    grid: WidthGrid
    full: np.ndarray
    order: np.ndarray
    traits: np.ndarray

    @property
    def features(self) -> int:
        """Length of a state."""
        return int(self.traits.shape[1]) + 3

    def state(self, units: np.ndarray, place: int) -> np.ndarray:
        """Returns what the agent sees before a decision, shape [features].

        Behind the group's traits: the share of the full network's cost that decisions so far
        have saved, the share that this and later ones can save, and the last ratio.

        Args:
            units: Those of groups decided upon count, shape [groups].
            place: How many these are.
        """
        cost = tightest(self.limits, self.full)
        most = cost.at(self._others(units, place, self.full))
        least = cost.at(self._others(units, place, self.grid.low))
        last = self.order[place - 1]
        ratio = units[last] / self.full[last] if place else 1.0
        whole = cost.at(self.full)
        progress = [(whole - most) / whole, (most - least) / whole, ratio]
        return np.concatenate([self.traits[place], progress])

    def bounds(self, units: np.ndarray, place: int) -> tuple[int, int]:
        """Returns the fewest and the most units that a group may keep.

        With the most, the budgets are just met if all later groups keep their fewest.
        """
        group = int(self.order[place])
        plan = self._others(units, place, self.grid.low)
        widths = self.grid.axes()[group]

        def share(width: int) -> float:
            plan[group] = width
            return self.limits.share(plan)

        return widths[0], widths[bisect_right(widths, 1.0, key=share) - 1]

    def realised(self, ratio: float, units: np.ndarray, place: int) -> int:
        """Returns the units nearest to a wanted ratio that the bounds and the grid allow."""
        low, most = self.bounds(units, place)
        group = int(self.order[place])
        wanted = self.grid.low.astype(np.float64)
        wanted[group] = ratio * float(self.full[group])
        return max(low, min(most, int(self.grid.nearest(wanted)[group])))

    def fitted(self, units: np.ndarray) -> np.ndarray:
        """Returns a plan if it lies in [0.98, 1.00] of the budgets, else the next to it."""
        if LOWEST_SHARE <= self.limits.share(units) <= 1.0:
            return units
        return fit_widths(self.limits, self.grid, units.astype(np.float64))

    def trajectory(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the states [groups, features] and ratios [groups] that lead to a plan."""
        states = [self.state(units, place) for place in range(len(self.order))]
        return np.stack(states), (units / self.full)[self.order]

    def _others(self, units: np.ndarray, place: int, later: np.ndarray) -> np.ndarray:
        """Returns a plan of the first `place` decisions and given units of all other groups."""
        plan = later.copy()
        decided = self.order[:place]
        plan[decided] = units[decided]
        return plan


def make_walk(problem: SearchProblem) -> Walk:
    """Returns the walk over a problem's groups, in the order of the layers that first read them."""
    network, limits = problem.network, problem.limits
    readers = [_readers(network, group) for group in network.prunable]
    places = {name: place for place, name in enumerate(network.layers)}
    # A group that no layer reads comes last.
    first = [places[layers[0].name] if layers else len(places) for layers in readers]
    order = np.argsort(first, kind="stable")
    full = problem.space.full
    cost = tightest(limits, full)
    rows = [
        _traits(network, cost, full, place, int(group), readers[group])
        for place, group in enumerate(order)
    ]
    grid = _grid(limits, problem.grid, problem.space)
    return Walk(limits, grid, full, order, _scaled(np.array(rows)))


def tightest(limits: Limits, full: np.ndarray) -> Cost:
    """Returns the cost of which the full network, units [groups], exceeds its budget the most."""
    return limits.binding(full).cost


def _readers(network: Network, group: Group) -> list[Layer]:
    """Returns the layers that read channels of a group, other than those it is tied through."""
    first, end = group.first, group.first + group.units
    return [
        layer
        for layer in consumers(network).values()
        if layer.inputs is not None and ((layer.inputs >= first) & (layer.inputs < end)).any()
    ]


def _traits(
    network: Network,
    cost: Cost,
    full: np.ndarray,
    place: int,
    group: int,
    readers: list[Layer],
) -> list[float]:
    without = full.copy()
    without[group] = 0
    saved = cost.at(full) - cost.at(without)
    outputs = sum(layer.out_channels for layer in readers)
    channels = network.prunable[group].size
    if not readers:
        return [place, 0, channels, outputs, 1, 1, 1, saved]
    first = network.model.get_submodule(readers[0].name)
    linear = isinstance(first, nn.Linear)
    stride = 1 if linear else int(first.stride[0])  # type: ignore[index]
    kernel = 1 if linear else int(first.kernel_size[0])  # type: ignore[index]
    shape = [stride, kernel, readers[0].positions]
    return [place, int(linear), channels, outputs, *shape, saved]


def _scaled(traits: np.ndarray) -> np.ndarray:
    """Returns every column between 0 and 1; 0 where all of it is the same."""
    low, high = traits.min(axis=0), traits.max(axis=0)
    return np.asarray((traits - low) / np.where(high > low, high - low, 1.0))


def _grid(limits: Limits, grid: WidthGrid, space: SearchSpace) -> WidthGrid:
    """Returns the grid without widths below the lowest ratio, if budgets leave room for that."""
    raised = -(-LOWEST_RATIO * space.full // grid.step).astype(np.int64) * grid.step
    low = np.clip(raised, grid.low, grid.high)
    if limits.share(low) > _ROOM:
        return grid
    return replace(grid, low=low)
