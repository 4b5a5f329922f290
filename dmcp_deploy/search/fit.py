"""From wanted widths to a plan that meets the budget on a grid of aligned widths."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.cost import Cost
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.units import format_macs

LOWEST_SHARE = 0.98  # of the budget: where a plan should end at least
_NEAR_ENOUGH = 0.995  # of the budget: where filling up stops
_REACH = 4  # steps by which an exchange raises a group at most
_FEW = 20_000  # plans: a grid with no more of them is tried out whole where all else fails


@dataclass(frozen=True)
class WidthGrid:
    """The widths a plan may take: multiples of `step` in low..high, in units, shape [groups]."""

    low: np.ndarray
    high: np.ndarray
    step: np.ndarray

    def nearest(self, units: np.ndarray) -> np.ndarray:
        """Returns the allowed widths nearest to wanted ones (real numbers), shape [groups]."""
        rounded = np.floor(units / self.step + 0.5).astype(np.int64) * self.step
        return np.asarray(np.clip(rounded, self.low, self.high))

    def axes(self) -> list[range]:
        """Returns the allowed widths of every group."""
        ends = zip(self.low.tolist(), self.high.tolist(), self.step.tolist(), strict=True)
        return [range(low, high + 1, step) for low, high, step in ends]


def width_grid(space: SearchSpace, align: int) -> WidthGrid:
    """Returns the widths whose channels are multiples of `align`.

    Groups of at most `align` channels, which cannot be narrowed and aligned at once, take any
    width. The smallest width is that of the space, aligned.
    """
    full = space.full
    step = np.array([align // math.gcd(align, int(unit)) for unit in space.unit], dtype=np.int64)
    step = np.where(full * space.unit > align, step, 1)
    step = np.where(step > full, full, step)
    high = full // step * step
    low = np.minimum(-(-space.minimum // step) * step, high)
    return WidthGrid(low, high, step)


def check_reachable(cost: Cost, grid: WidthGrid, budget_macs: int) -> None:
    """Checks that some plan of the grid meets a budget.

    Raises:
        DmcpError: The budget is below the narrowest network or above the full one; the message
            names the reachable range.
    """
    lowest, highest = cost.macs(grid.low), cost.full_macs
    if lowest <= budget_macs <= highest:
        return
    side = "below the narrowest" if budget_macs < lowest else "above the full"
    raise DmcpError(
        f"The FLOPs budget {format_macs(budget_macs)} is {side} network: choose one from"
        f" {format_macs(lowest)} to {format_macs(highest)} ({lowest} to {highest})."
    )


def fit_widths(cost: Cost, grid: WidthGrid, wanted: np.ndarray, budget_macs: int) -> np.ndarray:
    """Returns the widths near `wanted` whose MACs end just below a budget, shape [groups].

    The wanted widths are scaled by one factor so that their rounding fits the budget, then the
    room that is left is filled step by step where the width lags most behind. Where that ends
    below 0.98 of the budget, some steps of one group are exchanged for steps of others as long
    as that brings the plan nearer; small grids are searched whole then.

    Args:
        cost: The cost of the network.
        grid: The allowed widths.
        wanted: Wanted units, real numbers, shape [groups].
        budget_macs: The budget; must be reachable (see `check_reachable`).
    """
    target = wanted * _largest_scale(cost, grid, wanted, budget_macs)
    units = _filled(cost, grid, target, grid.nearest(target), budget_macs)
    reach = 1
    while cost.macs(units) < LOWEST_SHARE * budget_macs and reach <= _REACH:
        swapped = _exchange(cost, grid, target, units, budget_macs, reach)
        units, reach = (units, reach + 1) if swapped is None else (swapped, 1)
    if cost.macs(units) < LOWEST_SHARE * budget_macs and math.prod(map(len, grid.axes())) <= _FEW:
        return _best_of_all(cost, grid, target, budget_macs)
    return units


def _largest_scale(cost: Cost, grid: WidthGrid, wanted: np.ndarray, budget_macs: int) -> float:
    low, high = 0.0, float(np.max(grid.high / wanted)) + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if cost.macs(grid.nearest(middle * wanted)) <= budget_macs:
            low = middle
        else:
            high = middle
    return low


def _filled(
    cost: Cost, grid: WidthGrid, target: np.ndarray, units: np.ndarray, budget_macs: int
) -> np.ndarray:
    """Returns the plan raised step by step, where it lags most behind, as far as steps fit."""
    while cost.macs(units) < _NEAR_ENOUGH * budget_macs:
        lag = (target - units) / np.maximum(target, 1)
        raised = (_raised(units, int(group), grid, 1) for group in np.argsort(-lag, kind="stable"))
        fitting = (plan for plan in raised if plan is not None and cost.macs(plan) <= budget_macs)
        better = next(fitting, None)
        if better is None:
            break
        units = better
    return units


def _exchange(
    cost: Cost,
    grid: WidthGrid,
    target: np.ndarray,
    units: np.ndarray,
    budget_macs: int,
    steps: int,
) -> np.ndarray | None:
    """Returns a plan with more MACs that raises one group by some steps and lowers another.

    What that leaves free is filled. The first plan near enough to the budget is taken, else the
    best; None if no exchange is any better.
    """
    best, best_macs = None, cost.macs(units)
    for up, down in itertools.permutations(range(len(units)), 2):
        raised = _raised(units, up, grid, steps)
        lowered = None if raised is None else _lowered(cost, grid, raised, down, budget_macs)
        if lowered is None:
            continue
        filled = _filled(cost, grid, target, lowered, budget_macs)
        if (macs := cost.macs(filled)) > best_macs:
            best, best_macs = filled, macs
        if best_macs >= LOWEST_SHARE * budget_macs:
            break
    return best


def _best_of_all(cost: Cost, grid: WidthGrid, target: np.ndarray, budget_macs: int) -> np.ndarray:
    """Returns the plan nearest to the target of those in the band, or else nearest below it."""

    def worth(plan: np.ndarray) -> tuple[float, float]:
        macs = cost.macs(plan)
        reached = min(macs, LOWEST_SHARE * budget_macs) if macs <= budget_macs else -1.0
        return reached, -float(np.abs(plan - target).sum())

    return max(map(np.array, itertools.product(*grid.axes())), key=worth)


def _raised(units: np.ndarray, group: int, grid: WidthGrid, steps: int) -> np.ndarray | None:
    plan = units.copy()
    plan[group] += steps * grid.step[group]
    return plan if plan[group] <= grid.high[group] else None


def _lowered(
    cost: Cost, grid: WidthGrid, units: np.ndarray, group: int, budget_macs: int
) -> np.ndarray | None:
    """Returns the plan with one group lowered by as few steps as meet the budget, or None."""

    def lowered(steps: int) -> np.ndarray:
        plan = units.copy()
        plan[group] -= steps * grid.step[group]
        return plan

    most = int(units[group] - grid.low[group]) // int(grid.step[group])
    fewest = bisect_left(
        range(most + 1), True, key=lambda steps: cost.macs(lowered(steps)) <= budget_macs
    )
    return lowered(fewest) if fewest <= most else None
