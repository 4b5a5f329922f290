"""From wanted widths to a plan that meets the budgets on a grid of aligned widths."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import LOWEST_SHARE
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.costs.protocol import Cost
from dmcp_deploy.search.space import SearchSpace

_NEAR_ENOUGH = 0.995  # of a budget: where filling up stops
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

    def spread_axes(self, most: int = 48) -> list[np.ndarray]:
        """Returns the allowed widths of every group, ascending; of many, some evenly spread."""
        axes = [np.array(axis) for axis in self.axes()]
        places = [np.linspace(0, len(axis) - 1, min(most, len(axis))) for axis in axes]
        return [axis[np.round(at).astype(np.int64)] for axis, at in zip(axes, places, strict=True)]

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


def width_grid(space: SearchSpace, align: int, steps: np.ndarray | int = 1) -> WidthGrid:
    """Returns the widths whose channels are multiples of `align`, and the full ones.

    Groups of at most `align` channels, which cannot be narrowed and aligned at once, take any
    width. The smallest width is that of the space, aligned.

    Args:
        space: The widths of the search.
        align: What channels are multiples of.
        steps: Channels by which each group's cost steps up, shape [groups]; only the last width
            of each step is on offer, and a group that is no wider than its step stays whole.
    """
    full, align_of = space.full, np.lcm(align, steps)
    step = align_of // np.gcd(align_of, space.unit)
    step = np.where(full * space.unit > align_of, step, np.where(np.equal(steps, 1), 1, full))
    step = np.where(step > full, full, step)
    low = np.minimum(-(-space.minimum // step) * step, full // step * step)
    return WidthGrid(low, full, step)


def check_reachable(limits: Limits, grid: WidthGrid) -> None:
    """Checks that some plan of the grid meets all budgets.

    Raises:
        DmcpError: A budget is below the narrowest network or above the full one; the message
            names the reachable range in its own unit and in percent.
    """
    for limit in limits.limits:
        cost, lowest, highest = limit.cost, limit.cost.at(grid.low), limit.cost.at(grid.high)
        if lowest <= limit.most <= highest:
            continue
        side = "below the narrowest" if limit.most < lowest else "above the full"
        percent = math.ceil(1000 * lowest / highest) / 10  # rounded down, it could not be reached
        raise DmcpError(
            f"The budget of {cost.text(limit.most)} ({limit.most / highest:.1%}) is {side}"
            f" network: choose one from {_span(cost, lowest, highest)}, which is {percent:g}% to"
            " 100% of the network."
        )


def fit_widths(limits: Limits, grid: WidthGrid, wanted: np.ndarray) -> np.ndarray:
    """Returns the widths near `wanted` that end just below the budgets, shape [groups].

    The wanted widths are scaled by one factor so that their rounding fits the budgets, then the
    room that is left is filled step by step where the width lags most behind. Where that ends
    below 0.98 of all budgets, some steps of one group are exchanged for steps of others as long
    as that brings the plan nearer; small grids are searched whole then.

    Args:
        limits: The budgets; must be reachable (see `check_reachable`).
        grid: The allowed widths.
        wanted: Wanted units, real numbers, shape [groups].
    """
    return _Fit(limits, grid, scaled_widths(limits, grid, wanted)).plan()


def scaled_widths(limits: Limits, grid: WidthGrid, wanted: np.ndarray) -> np.ndarray:
    """Returns wanted units times the largest factor with which their rounding meets the budgets."""
    return wanted * _largest_scale(limits, grid, wanted)


def _span(cost: Cost, lowest: float, highest: float) -> str:
    """Returns a range: "10.4M to 300.8M multiply-adds (10435312 to 300774272)"."""
    first, last = cost.text(lowest).split(), cost.text(highest).split()
    pairs = zip(reversed(first[1:]), reversed(last), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    span = f"{' '.join(first[: len(first) - shared])} to {' '.join(last)}"
    counted = lowest.is_integer() and highest.is_integer()
    return f"{span} ({lowest:.0f} to {highest:.0f})" if counted else span


def _largest_scale(limits: Limits, grid: WidthGrid, wanted: np.ndarray) -> float:
    low, high = 0.0, float(np.max(grid.high / wanted)) + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if limits.is_met(grid.nearest(middle * wanted)):
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class _Fit:
    """Plans near a target that meet budgets; plans and target are units, shape [groups]."""

    limits: Limits
    grid: WidthGrid
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
        return self.limits.share(units) < LOWEST_SHARE

    def fill(self, units: np.ndarray) -> np.ndarray:
        """Returns the plan raised step by step, where it lags most behind, as far as steps fit."""
        while self.limits.share(units) < _NEAR_ENOUGH:
            lag = (self.target - units) / np.maximum(self.target, 1)
            plans = (self.grid.moved(units, int(g), 1) for g in np.argsort(-lag, kind="stable"))
            fitting = (p for p in plans if p is not None and self.limits.is_met(p))
            if (better := next(fitting, None)) is None:
                break
            units = better
        return units

    def exchange(self, units: np.ndarray, steps: int) -> np.ndarray | None:
        """Returns a plan nearer to a budget that raises one group by some steps and lowers another.

        What that leaves free is filled. The first plan near enough to the budget is taken, else
        the best; None if no exchange is any better.
        """
        best, best_share = None, self.limits.share(units)
        for up, down in itertools.permutations(range(len(units)), 2):
            raised = self.grid.moved(units, up, steps)
            lowered = None if raised is None else self.lowered(raised, down)
            if lowered is None:
                continue
            filled = self.fill(lowered)
            if (share := self.limits.share(filled)) > best_share:
                best, best_share = filled, share
            if best_share >= LOWEST_SHARE:
                break
        return best

    def worth(self, plan: np.ndarray) -> tuple[float, float]:
        """Returns what the best plan has most of: cost up to the band, then nearness to target."""
        share = self.limits.share(plan)
        reached = min(share, LOWEST_SHARE) if share <= 1.0 else -1.0
        return reached, -float(np.abs(plan - self.target).sum())

    def lowered(self, units: np.ndarray, group: int) -> np.ndarray | None:
        """Returns the plan with one group lowered by as few steps as meet the budgets, or None."""

        def is_met(steps: int) -> bool:
            plan = self.grid.moved(units, group, -steps)
            return plan is not None and self.limits.is_met(plan)

        most = -(-int(units[group] - self.grid.low[group]) // int(self.grid.step[group]))
        fewest = bisect_left(range(most + 1), True, key=is_met)
        return self.grid.moved(units, group, -fewest) if fewest <= most else None
