"""Greedy slimming: from the full network to a budget, the least harmful step at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.plan import LOWEST_SHARE
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.fit import WidthGrid, fit_widths
from dmcp_deploy.search.space import SearchSpace

#: Plans, units [groups] each -> the loss of each.
Losses = Callable[[Sequence[np.ndarray]], Sequence[float]]


@dataclass(frozen=True)
class Turn:
    """One step that was committed: a group's new width in units, and the loss it led to."""

    group: int
    units: int
    loss: float


@dataclass(frozen=True)
class Ladder:
    """The widths slimming steps down, from the widest of a grid to the narrowest.

    A group's first and last step are shorter where its widths do not divide into whole steps.

    Attributes:
        grid: The widths a plan may take.
        step: Units of a step, multiples of the grid's own, shape [groups].
    """

    grid: WidthGrid
    step: np.ndarray

    def slimmer(self, units: np.ndarray) -> dict[int, np.ndarray]:
        """Returns group -> the plan with that group one step slimmer, for all that have one."""
        plans = {}
        low, unit = self.grid.low, self.grid.step
        for group in np.flatnonzero(units > low).tolist():
            plan = units.copy()
            aligned = -(-(units[group] - self.step[group]) // unit[group]) * unit[group]
            plan[group] = max(low[group], aligned)
            plans[group] = plan
        return plans


def ladder(space: SearchSpace, grid: WidthGrid) -> Ladder:
    """Returns the steps of a search space, each the nearest multiple of the grid's own."""
    multiples = np.maximum(1, (2 * space.step + grid.step) // (2 * grid.step))
    return Ladder(grid, multiples * grid.step)


def slim_down(
    steps: Ladder, units: np.ndarray, losses: Losses, is_slim: Callable[[np.ndarray], bool]
) -> Iterator[Turn]:
    """Yields the turns of greedy slimming from a plan on, until it is slim enough.

    In each turn every group is tried one step slimmer, all others as they are; the plan with the
    lowest loss is committed, the first of them if several are equal (AutoSlim, 3.4).

    Args:
        steps: The widths on offer.
        units: The plan to start from, units [groups].
        losses: Judges the plans of a turn.
        is_slim: Returns whether a plan is slim enough.
    """
    while not is_slim(units) and (plans := steps.slimmer(units)):
        plan_losses = losses(list(plans.values()))
        best = int(np.argmin(plan_losses))
        group, units = list(plans.items())[best]
        yield Turn(group, int(units[group]), float(plan_losses[best]))


def plans_on_the_way(units: np.ndarray, turns: Iterable[Turn]) -> list[np.ndarray]:
    """Returns the plan before the first turn and after each, units [groups] each."""
    plans = [units]
    for turn in turns:
        units = units.copy()
        units[turn.group] = turn.units
        plans.append(units)
    return plans


def plan_within(limits: Limits, grid: WidthGrid, plans: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the plan for some budgets on the way of greedy slimming, units [groups].

    It is the first plan that meets them. Where that lies below 0.98 of them, the step that led
    there is shortened to as little as meets them, and what still lacks is filled up by
    `fit_widths`. It also narrows the last plan where slimming has stopped above a budget.

    Args:
        limits: The budgets; must be reachable (see `check_reachable`).
        grid: The widths a plan may take.
        plans: The plans on the way, the widest first.
    """
    place = next((i for i, p in enumerate(plans) if limits.is_met(p)), len(plans) - 1)
    plan = plans[place]
    if place and limits.share(plan) < LOWEST_SHARE:
        plan = _shortened(limits, grid, plans[place - 1], plan)
    if LOWEST_SHARE <= limits.share(plan) <= 1.0:
        return plan
    return fit_widths(limits, grid, plan)


def path_report(
    space: SearchSpace, accounting: NetworkCost, plans: Sequence[np.ndarray], turns: Sequence[Turn]
) -> list[Mapping[str, object]]:
    """Returns what each turn took: group, channels it keeps, multiply-adds and loss after it."""
    return [
        {
            "group": space.names[turn.group],
            "channels": turn.units * int(space.unit[turn.group]),
            "macs": accounting.macs(plan),
            "loss": round(turn.loss, 5),
        }
        for plan, turn in zip(plans[1:], turns, strict=True)
    ]


def _shortened(
    limits: Limits, grid: WidthGrid, before: np.ndarray, after: np.ndarray
) -> np.ndarray:
    """Returns the widest plan between two on the grid that meets the budgets, as `after` does."""
    group = int(np.flatnonzero(before != after)[0])
    plan, wider = after, grid.moved(after, group, 1)
    while wider is not None and limits.is_met(wider):
        plan, wider = wider, grid.moved(wider, group, 1)
    return plan
