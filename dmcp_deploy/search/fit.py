"""From wanted widths to a plan that meets the budget on a grid of aligned widths."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.cost import Cost
from dmcp_deploy.plan import LOWEST_SHARE
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.units import format_macs

_NEAR_ENOUGH = 0.995  # of the budget: where filling up stops
_REACH = 4  # steps by which an exchange raises a group at most
_FEW = 20_000  # plans: a grid with no more of them is tried out whole where all else fails


@dataclass(frozen=True)
class WidthGrid:
    """The widths a plan may take: multiples of `step` from `low` on, and `high`.

    The widest of a group is its full width, whether `step` divides it or not. All are in units,
    shape [groups].
    """

    low: np.ndarray
    high: np.ndarray
    step: np.ndarray

    def nearest(self, units: np.ndarray) -> np.ndarray:
        """Returns the allowed widths nearest to wanted ones (real numbers), shape [groups]."""
        wanted = np.clip(units, self.low, self.high)
        below = np.floor(wanted / self.step).astype(np.int64) * self.step
        above = np.minimum(below + self.step, self.high)
        return np.asarray(np.where(wanted - below < above - wanted, below, above))

    def axes(self) -> list[list[int]]:
        """Returns the allowed widths of every group, ascending."""
        ends = zip(self.low.tolist(), self.high.tolist(), self.step.tolist(), strict=True)
        return [[*range(low, high, step), high] for low, high, step in ends]

    def moved(self, units: np.ndarray, group: int, steps: int) -> np.ndarray | None:
        """Returns a plan of the grid with one group some widths wider, or narrower if negative.

        Args:
            units: The plan, shape [groups].
            group: The group's number.
            steps: How many widths of the grid.

        Returns:
            The plan; None where the grid ends before.
        """
        low, high, step = (int(ends[group]) for ends in (self.low, self.high, self.step))
        # A full width that is no multiple counts as the multiple above it.
        place = -(-int(units[group]) // step) + steps
        if not low <= place * step < high + step:
            return None
        plan = units.copy()
        plan[group] = min(place * step, high)
        return plan


def width_grid(space: SearchSpace, align: int) -> WidthGrid:
    """Returns the widths whose channels are multiples of `align`, and the full ones.

    Groups of at most `align` channels, which cannot be narrowed and aligned at once, take any
    width. The smallest width is that of the space, aligned.
    """
    full = space.full
    step = np.array([align // math.gcd(align, int(unit)) for unit in space.unit], dtype=np.int64)
    step = np.where(full * space.unit > align, step, 1)
    step = np.where(step > full, full, step)
    low = np.minimum(-(-space.minimum // step) * step, full // step * step)
    return WidthGrid(low, full, step)


def check_reachable(cost: Cost, grid: WidthGrid, budget_macs: int) -> None:
    """Checks that some plan of the grid meets a budget.

    Raises:
        DmcpError: The budget is below the narrowest network or above the full one; the message
            names the reachable range in multiply-adds and in percent.
    """
    lowest, highest = cost.macs(grid.low), cost.full_macs
    if lowest <= budget_macs <= highest:
        return
    side = "below the narrowest" if budget_macs < lowest else "above the full"
    percent = math.ceil(1000 * lowest / highest) / 10  # rounded down, it could not be reached
    raise DmcpError(
        f"The FLOPs budget {format_macs(budget_macs)} ({budget_macs / highest:.1%}) is {side}"
        f" network: choose one from {format_macs(lowest)} to {format_macs(highest)} ({lowest} to"
        f" {highest}), which is {percent:g}% to 100% of the network."
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
    scale = _largest_scale(cost, grid, wanted, budget_macs)
    return _Fit(cost, grid, budget_macs, wanted * scale).plan()


def _largest_scale(cost: Cost, grid: WidthGrid, wanted: np.ndarray, budget_macs: int) -> float:
    low, high = 0.0, float(np.max(grid.high / wanted)) + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if cost.macs(grid.nearest(middle * wanted)) <= budget_macs:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class _Fit:
    """Plans near a target that meet a budget; plans and target are units, shape [groups]."""

    cost: Cost
    grid: WidthGrid
    budget_macs: int
    target: np.ndarray

    def plan(self) -> np.ndarray:
        units, steps = self.fill(self.grid.nearest(self.target)), 1
        while self.is_low(units) and steps <= _REACH:
            exchanged = self.exchange(units, steps)
            units, steps = (units, steps + 1) if exchanged is None else (exchanged, 1)
        if self.is_low(units) and math.prod(map(len, self.grid.axes())) <= _FEW:
            return max(map(np.array, itertools.product(*self.grid.axes())), key=self.worth)
        return units

    def is_low(self, units: np.ndarray) -> bool:
        return self.cost.macs(units) < LOWEST_SHARE * self.budget_macs

    def fill(self, units: np.ndarray) -> np.ndarray:
        """Returns the plan raised step by step, where it lags most behind, as far as steps fit."""
        while self.cost.macs(units) < _NEAR_ENOUGH * self.budget_macs:
            lag = (self.target - units) / np.maximum(self.target, 1)
            plans = (self.grid.moved(units, int(g), 1) for g in np.argsort(-lag, kind="stable"))
            fitting = (p for p in plans if p is not None and self.cost.macs(p) <= self.budget_macs)
            if (better := next(fitting, None)) is None:
                break
            units = better
        return units

    def exchange(self, units: np.ndarray, steps: int) -> np.ndarray | None:
        """Returns a plan with more MACs that raises one group by some steps and lowers another.

        What that leaves free is filled. The first plan near enough to the budget is taken, else
        the best; None if no exchange is any better.
        """
        best, best_macs = None, self.cost.macs(units)
        for up, down in itertools.permutations(range(len(units)), 2):
            raised = self.grid.moved(units, up, steps)
            lowered = None if raised is None else self.lowered(raised, down)
            if lowered is None:
                continue
            filled = self.fill(lowered)
            if (macs := self.cost.macs(filled)) > best_macs:
                best, best_macs = filled, macs
            if best_macs >= LOWEST_SHARE * self.budget_macs:
                break
        return best

    def worth(self, plan: np.ndarray) -> tuple[float, float]:
        """Returns what the best plan has most of: MACs up to the band, then nearness to target."""
        macs = self.cost.macs(plan)
        fits = macs <= self.budget_macs
        reached = min(macs, LOWEST_SHARE * self.budget_macs) if fits else -1.0
        return reached, -float(np.abs(plan - self.target).sum())

    def lowered(self, units: np.ndarray, group: int) -> np.ndarray | None:
        """Returns the plan with one group lowered by as few steps as meet the budget, or None."""

        def is_met(steps: int) -> bool:
            plan = self.grid.moved(units, group, -steps)
            return plan is not None and self.cost.macs(plan) <= self.budget_macs

        most = -(-int(units[group] - self.grid.low[group]) // int(self.grid.step[group]))
        fewest = bisect_left(range(most + 1), True, key=is_met)
        return self.grid.moved(units, group, -fewest) if fewest <= most else None
