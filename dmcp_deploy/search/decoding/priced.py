"""A problem of decoding with a price for each limit in place of the limits."""

from __future__ import annotations

import numpy as np

from dmcp_deploy.search.decoding.effort import Effort
from dmcp_deploy.search.decoding.elimination import Elimination
from dmcp_deploy.search.decoding.multipliers import lowest_bound
from dmcp_deploy.search.decoding.near import NearBest
from dmcp_deploy.search.decoding.tables import Tables

_ROUNDING = 1e-12  # of a limit: less than one multiply-add in a network of any size
_DEAR = 1e6  # the highest price, in distances between the best and the worst plan


class Priced:
    """Worth minus priced cost.

    Attributes:
        tables: The problem.
    """

    def __init__(self, tables: Tables, effort: Effort) -> None:
        self.tables, self._effort = tables, effort
        self._elimination = Elimination(tables.sizes, tables.all_scopes())
        self._seen: dict[tuple[int, ...], tuple[float, np.ndarray]] = {}

    def bound(self, prices: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """Returns what no plan within the limits is worth more than, and what choices lose."""
        bound, losses = self._elimination.bound(self.tables.priced(prices))
        self._effort.spend(sum(table.size for table in losses), len(losses))
        return bound + float(prices.sum()), losses

    def best_prices(self, enough: float) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the prices of the lowest bound, or of one that is low enough.

        Args:
            enough: Such a bound.

        Returns:
            The prices, shape [limits], and the best plan within the limits that was seen.
        """
        dear = _DEAR * (self.tables.span or 1.0)
        prices = lowest_bound(
            self._evaluate, self.tables.limits, most=dear, enough=enough, effort=self._effort
        )
        met = [
            (worth, plan)
            for plan, (worth, room) in self._seen.items()
            if (room >= -_ROUNDING).all()
        ]
        return prices, np.array(max(met)[1]) if met else None

    def promising(self, losses: list[np.ndarray], most_lost: float) -> list[np.ndarray]:
        """Returns for each group the widths of plans that may lose no more than `most_lost`."""
        kept = [np.ones(size, dtype=bool) for size in self.tables.sizes]
        for piece, table in zip(self._elimination.pieces, losses, strict=True):
            kept[piece.group] &= table.reshape(len(table), -1).min(axis=1) <= most_lost
        return [np.flatnonzero(row) for row in kept]

    def halves(self, prices: np.ndarray) -> tuple[int, int]:
        """Returns a group, and the place on its axis where to cut it in two.

        The two best plans at the best prices, one of which costs too much and one too little,
        differ; of the groups in which they do it is the one that changes the cost most.
        """
        value = {p: worth + float(prices @ room) for p, (worth, room) in self._seen.items()}
        first, *others = (np.array(p) for p in sorted(value, key=lambda p: (-value[p], p))[:2])
        sizes = self.tables.sizes
        if not others:
            group = int(np.argmax(sizes))
            return group, sizes[group] // 2
        shares = self.tables.shares_at(first)
        changes = np.zeros(len(sizes))
        for differing in np.flatnonzero(first != others[0]):
            changed = first.copy()
            changed[differing] = others[0][differing]
            changes[differing] = 1.0 + np.abs(self.tables.shares_at(changed) - shares).max()
        group = int(changes.argmax())
        return group, int(first[group] + others[0][group] + 1) // 2

    def near(self, prices: np.ndarray) -> NearBest:
        """Returns the list of plans that lose little against the bound at some prices."""
        bound, losses = self.bound(prices)
        excess, room = [], np.empty(self.tables.limits)
        for number, alone in enumerate(np.eye(self.tables.limits)):
            least, taken = self._elimination.bound(self.tables.priced(alone, worth=0.0))
            excess.append(taken)
            room[number] = 1.0 + _ROUNDING + least  # it is the bound of minus the share
        return NearBest(self._elimination, bound, losses, excess, prices, room, self._effort)

    def _evaluate(self, prices: np.ndarray) -> tuple[float, float, np.ndarray]:
        bound, losses = self.bound(prices)
        plan = self._elimination.best(losses)
        worth, room = self.tables.worth_at(plan), 1.0 - self.tables.shares_at(plan)
        self._seen[tuple(plan.tolist())] = worth, room
        return bound, worth, room
