"""All plans that lose little against a bound, those apart that others make superfluous."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dmcp_deploy.search.decoding.effort import Effort
from dmcp_deploy.search.decoding.elimination import Elimination

_MOST = 20_000  # unfinished plans that are followed
_FEW = 500  # of them when no effort is left
_CALLS = 7  # of a step on arrays of their own
_DEAR = 5  # entries that are sorted or picked take as long as so many that are added
_LOOK_BACK = (1, 1, 1, 2, 3, 4, 6, 8, 12, 20)  # to plans of more worth, where limits are several


@dataclass(frozen=True)
class NearBest:
    """The plans near the bound at given prices.

    Attributes:
        elimination: Of the groups.
        bound: What no plan is worth more than.
        losses: What choices lose against the bound, from the elimination.
        excess: For each limit what they take of it beyond the least that is possible.
        prices: Of the limits, shape [limits].
        room: What each limit leaves beyond that least, shape [limits].
        effort: After which to go on with a few plans alone.
    """

    elimination: Elimination
    bound: float
    losses: list[np.ndarray]
    excess: list[list[np.ndarray]]
    prices: np.ndarray
    room: np.ndarray
    effort: Effort

    @property
    def most_lost(self) -> float:
        """What no plan loses more than."""
        return sum(float(table.max()) for table in self.losses)

    def plans(self, most_lost: float) -> tuple[np.ndarray, bool]:
        """Returns plans that meet the limits and lose at most `most_lost`.

        Of two unfinished plans that can be completed alike, one that is worth no more and takes
        no less of any limit is dropped.

        Args:
            most_lost: The most they lose.

        Returns:
            Plans, shape [plans, groups], and whether the best of all is among them: not if there
            were too many to follow.
        """
        chosen = np.zeros((1, len(self.elimination.sizes)), dtype=np.int16)
        lost, taken = np.zeros(1), np.zeros((len(self.room), 1))
        is_complete = True
        for group, still_open in self.elimination.steps():
            options = lost + self._added(self.losses, group, chosen)
            choice, origin = np.nonzero(options <= most_lost)
            added = [self._added(table, group, chosen)[choice, origin] for table in self.excess]
            lost, taken = options[choice, origin], taken[:, origin] + added
            chosen = chosen[origin]
            chosen[:, group] = choice
            self.effort.spend(_DEAR * (options.size + chosen.size), _CALLS)
            kept = np.flatnonzero((taken <= self.room[:, None]).all(axis=0))
            states = _states(chosen[kept], still_open, self.elimination.sizes)
            value = self.prices @ taken[:, kept] - lost[kept]
            kept = kept[_undominated(states, value, taken[:, kept])]
            most = _FEW if self.effort.is_spent else _MOST
            if len(kept) > most:
                is_complete = False
                kept = kept[np.argsort(lost[kept], kind="stable")[:most]]
            chosen, lost, taken = chosen[kept], lost[kept], taken[:, kept]
        return chosen, is_complete

    def _added(self, tables: list[np.ndarray], group: int, chosen: np.ndarray) -> np.ndarray:
        """Returns what each choice of a group adds to each plan, shape [choices, plans]."""
        added = np.zeros((self.elimination.sizes[group], len(chosen)))
        for piece, table in zip(self.elimination.pieces, tables, strict=True):
            if piece.group == group:
                columns = tuple(chosen[:, other] for other in piece.others)
                added += np.moveaxis(table, 0, -1)[columns].T if columns else table[:, None]
        return added


def _states(chosen: np.ndarray, still_open: list[int], sizes: list[int]) -> np.ndarray:
    """Returns a number for each plan, equal for those alike in the groups that still matter."""
    states = np.zeros(len(chosen), dtype=np.int64)
    for group in still_open:
        states = states * sizes[group] + chosen[:, group]
        if len(states) and states.max() > 2**62 // max(sizes):
            states = np.unique(states, return_inverse=True)[1].astype(np.int64)
    return states


def _undominated(states: np.ndarray, value: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Returns the places of plans that no other of the same state betters, in a fixed order."""
    order = np.asarray(np.lexsort((*taken, -value, states)))
    if len(taken) == 1:
        return np.asarray(order[_is_new_low(states[order], taken[0, order])])
    for back in _LOOK_BACK:
        ahead, behind = order[:-back], order[back:]
        is_less = states[ahead] == states[behind]
        for row in taken:
            is_less &= row[ahead] <= row[behind]
        order = np.concatenate([order[:back], behind[~is_less]])
    return order


def _is_new_low(states: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Returns where a number is below all before it in its state; states are sorted."""
    ranks = np.unique(taken, return_inverse=True)[1]
    starts = np.concatenate([[True], states[1:] != states[:-1]])[: len(states)]
    falling = ranks - np.cumsum(starts) * (len(ranks) + 1)  # each state lies below those before
    lowest = np.minimum.accumulate(falling)
    is_lower = np.concatenate([[True], falling[1:] < lowest[:-1]])[: len(states)]
    return np.asarray(starts | is_lower)
