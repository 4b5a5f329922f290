"""The best plan within limits, by branching on widths until few plans are left open."""

from __future__ import annotations

import heapq
import itertools

import numpy as np

from dmcp_deploy.search.decoding.effort import Effort
from dmcp_deploy.search.decoding.priced import Priced
from dmcp_deploy.search.decoding.tables import Tables

_EQUAL = 1e-10  # of the distance between the best and the worst plan: equal worth
_FIRST = 1 / 256  # of the gap that prices leave: which plans are listed first
_WORTH_WHILE = 0.7  # of the widths are left: then leaving more out is tried again


def best_plan(tables: Tables, effort: Effort) -> tuple[np.ndarray | None, float]:
    """Returns the plan of the highest worth within the limits, and a bound of any plan's worth.

    With a price for each limit, the best sum of worth minus priced cost is found by elimination
    and bounds what any plan can be worth. Widths with which that bound is below the best plan
    known are left out. Few plans lose little against the bound: they are listed, and if they are
    too many, the widths of one group are halved and both halves treated alike, the more
    promising first.

    Args:
        tables: The problem.
        effort: After which to stop with what there is.

    Returns:
        The plan, shape [groups], None if none is known; and the bound, the plan's own worth if it
        is proven to be the best, minus infinity if there is proven to be none.
    """
    search = _Search(tables, effort)
    search.add([np.arange(size) for size in tables.sizes])
    while search.bound() > search.worth and not effort.is_spent:
        search.advance()
    return search.plan, max(search.bound(), search.worth)


class _Search:
    """What is open, and the best plan so far.

    A node is some widths on offer of each group, as places on its axis. An open one stands with
    the bound of its plans, the prices that gave it, and where to halve it: a group and a place.

    Attributes:
        plan: The best plan, shape [groups], and
        worth: its worth; None and minus infinity as long as none is known.
    """

    def __init__(self, tables: Tables, effort: Effort) -> None:
        self._tables, self._effort, self._numbers = tables, effort, itertools.count()
        self._equal = _EQUAL * (tables.span or 1.0)
        self._open: list[tuple[float, int, list[np.ndarray], np.ndarray, tuple[int, int]]] = []
        self.plan: np.ndarray | None = None
        self.worth = -np.inf
        narrowest = np.zeros(len(tables.sizes), dtype=np.int64)
        if (tables.shares_at(narrowest) <= 1.0).all():
            self._improve(narrowest)

    def bound(self) -> float:
        """Returns the most that a plan of what is open can be worth."""
        return -self._open[0][0] if self._open else -np.inf

    def add(self, places: list[np.ndarray]) -> None:
        """Opens a node, without the widths that no better plan has; not if none is left."""
        while True:
            priced = Priced(self._tables.narrowed(places), self._effort)
            prices, plan = priced.best_prices(self.worth + self._equal)
            if plan is not None:
                self._improve(_placed(places, plan))
            bound, losses = priced.bound(prices)
            most_lost = bound - self.worth - self._equal
            kept = priced.promising(losses, most_lost)
            if most_lost <= 0 or not all(map(len, kept)):
                return
            before = sum(map(len, places))
            if sum(map(len, kept)) > _WORTH_WHILE * before:
                break
            places = [row[k] for row, k in zip(places, kept, strict=True)]
        node = (-bound, next(self._numbers), places, prices, priced.halves(prices))
        heapq.heappush(self._open, node)

    def advance(self) -> None:
        """Settles the open node of the highest bound, or halves it."""
        _, _, places, prices, (group, place) = heapq.heappop(self._open)
        if self._is_settled(places, prices):
            return
        for half in (places[group][:place], places[group][place:]):
            self.add([*places[:group], half, *places[group + 1 :]])

    def _is_settled(self, places: list[np.ndarray], prices: np.ndarray) -> bool:
        """Lists the plans near a node's bound; returns whether one that is better is left."""
        priced = Priced(self._tables.narrowed(places), self._effort)
        near = priced.near(prices)
        lost = min(near.bound - self.worth, near.most_lost)
        allowed, is_complete = _FIRST * lost, True
        while is_complete:
            plans, is_complete = near.plans(allowed + self._equal)
            if len(plans):
                self._improve(_placed(places, priced.tables.best_of(plans)))
            lost = min(near.bound - self.worth, near.most_lost)
            if is_complete and lost <= allowed + self._equal:
                return True
            allowed = min(2 * allowed + self._equal, lost)
        return False

    def _improve(self, plan: np.ndarray) -> None:
        worth = self._tables.worth_at(plan)
        if worth > self.worth:
            self.plan, self.worth = plan, worth


def _placed(places: list[np.ndarray], plan: np.ndarray) -> np.ndarray:
    return np.array([row[k] for row, k in zip(places, plan, strict=True)])
