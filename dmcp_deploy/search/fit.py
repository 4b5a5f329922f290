"""From wanted widths to a plan that meets the budget on a grid of aligned widths."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.cost import Cost
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.units import format_macs

LOWEST_SHARE = 0.98  # of the budget: where a plan should end at least
_NEAR_ENOUGH = 0.995  # of the budget: where filling up stops


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
    room that is left is filled step by step where the width lags most behind. The result lies
    in [0.98, 1] of the budget wherever steps or exchanges of two steps reach that.

    Args:
        cost: The cost of the network.
        grid: The allowed widths.
        wanted: Wanted units, real numbers, shape [groups].
        budget_macs: The budget; must be reachable (see `check_reachable`).
    """
    scale = _largest_scale(cost, grid, wanted, budget_macs)
    units = grid.nearest(scale * wanted)
    while (better := _raise_one(cost, grid, scale * wanted, units, budget_macs)) is not None:
        units = better
    while cost.macs(units) < LOWEST_SHARE * budget_macs:
        swapped = _exchange(cost, grid, units, budget_macs)
        if swapped is None:
            break
        units = swapped
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


def _raise_one(
    cost: Cost, grid: WidthGrid, wanted: np.ndarray, units: np.ndarray, budget_macs: int
) -> np.ndarray | None:
    if cost.macs(units) >= _NEAR_ENOUGH * budget_macs:
        return None
    lag = (wanted - units) / np.maximum(wanted, 1)
    for group in np.argsort(-lag, kind="stable"):
        raised = _moved(units, int(group), grid, +1)
        if raised is not None and cost.macs(raised) <= budget_macs:
            return raised
    return None


def _exchange(
    cost: Cost, grid: WidthGrid, units: np.ndarray, budget_macs: int
) -> np.ndarray | None:
    """Returns the best plan that raises one group and lowers another, or None."""
    best, best_macs = None, cost.macs(units)
    for up in range(len(units)):
        raised = _moved(units, up, grid, +1)
        if raised is None:
            continue
        for down in range(len(units)):
            both = _moved(raised, down, grid, -1) if down != up else None
            macs = 0 if both is None else cost.macs(both)
            if best_macs < macs <= budget_macs:
                best, best_macs = both, macs
    return best


def _moved(units: np.ndarray, group: int, grid: WidthGrid, sign: int) -> np.ndarray | None:
    width = units[group] + sign * grid.step[group]
    if not grid.low[group] <= width <= grid.high[group]:
        return None
    moved = units.copy()
    moved[group] = width
    return moved
