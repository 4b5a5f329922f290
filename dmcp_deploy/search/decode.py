"""The best plan by a worth per group and width that meets every limit, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.decoding.best import best_plan
from dmcp_deploy.search.decoding.effort import Effort
from dmcp_deploy.search.decoding.tables import Tables, limit_tables

EFFORT = 1e10  # about a minute; most plans take less than a second of it
_TIGHTENINGS = 12  # of limits whose terms do not add up to the cost
_EQUAL = 1e-9  # of the distance between the best and the worst plan: equal worth


@dataclass(frozen=True)
class Decoded:
    """A plan within limits.

    Attributes:
        units: What each group keeps, shape [groups].
        worth: The worth of the plan, summed over the groups.
        bound: No plan as was asked for is worth more.
        is_proven: Whether none is worth more than this one.
        share: The largest share that it takes of a limit, at most 1.
    """

    units: np.ndarray
    worth: float
    bound: float
    is_proven: bool
    share: float


def decode(
    limits: Limits,
    axes: Sequence[np.ndarray],
    worth: Sequence[np.ndarray],
    *,
    least: float = 0.0,
    effort: float = EFFORT,
) -> Decoded:
    """Returns the plan of the highest worth that meets all limits.

    Where the terms of a cost only come near it, plans are sought under limits that are tighter
    by what the terms were wrong, until one meets the limits themselves; then nothing is proven.

    Args:
        limits: What a plan may cost.
        axes: The units on offer of each group, ascending.
        worth: The worth of each of them, finite; what a plan is worth is their sum.
        least: The share that a plan must take of one of the limits; where no plan does, twice as
            much may be left, and so on.
        effort: Entries of arrays that are computed (see `Effort`) before the best plan so far is
            taken, with the bound as far as it is known.

    Raises:
        DmcpError: No plan of the widths on offer meets the limits.
    """
    left = Effort(effort)
    tables = limit_tables(limits, axes, worth)
    decoded = _best_met(limits, axes, tables, left) or _narrowest(limits, axes, tables)
    if decoded is None:
        raise DmcpError(
            "No plan of the widths on offer meets"
            f" {' and '.join(limit.asked for limit in limits.limits)}: choose a larger budget, or"
            " a smaller alignment."
        )
    while decoded.share < least:
        floored = (tables.floored(limit, least) for limit in range(tables.limits))
        plans = [plan for problem in floored if (plan := _best_met(limits, axes, problem, left))]
        if plans:
            return _best_of(plans)
        least = 1.0 - 2 * (1.0 - least)
    return decoded


def _best_met(
    limits: Limits, axes: Sequence[np.ndarray], tables: Tables, effort: Effort
) -> Decoded | None:
    """Returns the best plan that meets the limits, and what else the tables ask for."""
    count = len(limits.limits)
    for _ in range(_TIGHTENINGS):
        plan, bound = best_plan(tables, effort)
        if plan is None:
            return None
        units = np.array([axis[k] for axis, k in zip(axes, plan, strict=True)])
        if limits.is_met(units):
            return _decoded(limits, tables, plan, units, bound)
        real = np.array([limit.share(units) for limit in limits.limits])
        factors = np.ones(tables.limits)
        factors[:count] = np.maximum(1.0, real / tables.shares_at(plan)[:count])
        tables = tables.tightened(factors)
    return None


def _narrowest(limits: Limits, axes: Sequence[np.ndarray], tables: Tables) -> Decoded | None:
    """Returns the narrowest plan if it meets the limits: tighter ones may leave out even that."""
    units = np.array([axis[0] for axis in axes])
    if not limits.is_met(units):
        return None
    return _decoded(limits, tables, np.zeros(len(axes), np.int64), units, np.inf)


def _decoded(
    limits: Limits, tables: Tables, plan: np.ndarray, units: np.ndarray, bound: float
) -> Decoded:
    worth = tables.worth_at(plan)
    if not all(limit.cost.exact_terms for limit in limits.limits):
        bound = sum(float(row.max()) for row in tables.worth)
    bound = max(bound, worth)
    is_proven = bound - worth <= _EQUAL * tables.span
    return Decoded(units, worth, bound, is_proven, limits.share(units))


def _best_of(plans: list[Decoded]) -> Decoded:
    """Returns the best of the plans, bounded by what any of them might have been worth."""
    best = max(plans, key=lambda plan: plan.worth)
    is_proven = all(plan.is_proven or plan.bound <= best.worth for plan in plans)
    bound = best.worth if is_proven else max(plan.bound for plan in plans)
    return replace(best, bound=bound, is_proven=is_proven)
