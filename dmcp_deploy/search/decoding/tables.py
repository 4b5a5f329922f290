"""Worth and costs of plans as sums of small tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dmcp_deploy.search.costs.limits import Limits


@dataclass(frozen=True)
class Tables:
    """A problem of decoding; a plan here is the place of its width on offer, for each group.

    Attributes:
        worth: The worth of each width, a row for each group.
        scopes: The groups of each part of the costs, ascending.
        shares: That part of each limit's cost, as a share of the limit: shape [limits, ...] with
            a dimension for each group of its scope.
    """

    worth: tuple[np.ndarray, ...]
    scopes: tuple[tuple[int, ...], ...]
    shares: tuple[np.ndarray, ...]

    @property
    def sizes(self) -> list[int]:
        """How many widths every group has on offer."""
        return [len(row) for row in self.worth]

    @property
    def limits(self) -> int:
        """How many limits there are."""
        return len(self.shares[0])

    @property
    def span(self) -> float:
        """How far the worths of two plans can lie apart."""
        return sum(float(np.ptp(row)) for row in self.worth)

    def all_scopes(self) -> list[tuple[int, ...]]:
        """Returns the scopes of what `priced` returns."""
        return [*((group,) for group in range(len(self.worth))), *self.scopes]

    def priced(self, prices: np.ndarray, worth: float = 1.0) -> list[np.ndarray]:
        """Returns the tables of `worth` times the worth minus the priced shares."""
        paid = (-np.tensordot(prices, shares, axes=1) for shares in self.shares)
        return [*(worth * row for row in self.worth), *paid]

    def worth_at(self, plan: np.ndarray) -> float:
        """Returns the worth of a plan."""
        return float(sum(row[k] for row, k in zip(self.worth, plan, strict=True)))

    def shares_at(self, plan: np.ndarray) -> np.ndarray:
        """Returns the share of each limit that a plan takes, shape [limits]."""
        parts = zip(self.scopes, self.shares, strict=True)
        rows = [np.moveaxis(t, 0, -1)[tuple(plan[list(scope)])] for scope, t in parts]
        return np.asarray(np.sum(rows, axis=0))

    def best_of(self, plans: np.ndarray) -> np.ndarray:
        """Returns the first of the plans of the highest worth; plans are [plans, groups]."""
        worth = np.sum([row[plans[:, g]] for g, row in enumerate(self.worth)], axis=0)
        return np.asarray(plans[worth.argmax()])

    def narrowed(self, kept: Sequence[np.ndarray]) -> Tables:
        """Returns the problem with some widths of each group alone."""
        rows = tuple(row[places] for row, places in zip(self.worth, kept, strict=True))
        parts = zip(self.scopes, self.shares, strict=True)
        shares = (
            table[np.ix_(np.arange(len(table)), *(kept[g] for g in scope))]
            for scope, table in parts
        )
        return Tables(rows, self.scopes, tuple(shares))

    def tightened(self, factors: np.ndarray) -> Tables:
        """Returns the problem with each limit lowered by a factor, shape [limits]."""
        shares = (table * factors.reshape(-1, *[1] * (table.ndim - 1)) for table in self.shares)
        return Tables(self.worth, self.scopes, tuple(shares))

    def floored(self, limit: int, least: float) -> Tables:
        """Returns the problem with one limit more: that a plan takes at least a share of one."""
        constant = (1.0 + least) * np.eye(len(self.shares[0]) + 1)[-1]
        shares = [np.concatenate([table, -table[limit : limit + 1]]) for table in self.shares]
        return Tables(self.worth, (*self.scopes, ()), (*shares, constant))


def limit_tables(limits: Limits, axes: Sequence[np.ndarray], worth: Sequence[np.ndarray]) -> Tables:
    """Returns the tables of limits at the widths on offer."""
    sums: dict[tuple[int, ...], np.ndarray] = {}
    for number, limit in enumerate(limits.limits):
        for term in limit.cost.terms(axes):
            scope = tuple(sorted(term.groups))
            values = np.asarray(term.values if scope == term.groups else term.values.T)
            if scope not in sums:
                sums[scope] = np.zeros((len(limits.limits), *values.shape))
            sums[scope][number] += values / limit.most
    rows = tuple(np.asarray(row, dtype=np.float64) for row in worth)
    return Tables(rows, tuple(sums), tuple(sums.values()))
