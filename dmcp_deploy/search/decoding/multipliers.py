"""The prices of several limits at which the Lagrangian bound is lowest."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from dmcp_deploy.search.decoding.effort import Effort

_ROUNDS = 60
_CLOSE = 1e-7  # share of the bound by which it may stay above its lowest
_CUTS = 24  # that are kept; of three limits they have 150,000 corners


def lowest_bound(
    evaluate: Callable[[np.ndarray], tuple[float, float, np.ndarray]],
    limits: int,
    *,
    most: float,
    enough: float,
    effort: Effort,
) -> np.ndarray:
    """Returns the prices with the lowest bound, by Kelley's cutting planes, shape [limits].

    Args:
        evaluate: Of prices the bound, and of a plan that is best there its worth and the room
            that it leaves under each limit, shape [limits]; negative where it is not met.
        limits: How many there are; a few.
        most: The highest price that is tried.
        enough: A bound that is low enough.
        effort: After which to stop with what there is.
    """
    prices, best, lowest = np.zeros(limits), np.zeros(limits), np.inf
    cuts = np.empty((0, limits + 1))
    for _ in range(_ROUNDS):
        bound, worth, room = evaluate(prices)
        if bound < lowest:
            best, lowest = prices, bound
        cuts = np.vstack([cuts, [*room, worth]])
        nearest = np.argsort(-(cuts[:, :-1] @ best + cuts[:, -1]), kind="stable")[:_CUTS]
        cuts = cuts[np.sort(nearest)]
        prices, reached = _lowest_corner(cuts, most)
        is_close = lowest - reached <= _CLOSE * abs(lowest)
        if is_close or lowest <= enough or effort.is_spent:
            break
    return best


def _lowest_corner(cuts: np.ndarray, most: float) -> tuple[np.ndarray, float]:
    """Returns where the highest of some planes, slopes and height, is lowest, and its height."""
    count = cuts.shape[1] - 1
    walls = np.hstack([np.tile(np.eye(count), (2, 1)), np.zeros((2 * count, 1))])
    planes = np.vstack([np.hstack([cuts[:, :-1], -np.ones((len(cuts), 1))]), walls])
    heights = np.concatenate([-cuts[:, -1], np.zeros(count), np.full(count, most)])
    chosen = np.array(list(itertools.combinations(range(len(planes)), count + 1)))
    matrices = planes[chosen]
    solvable = np.abs(np.linalg.det(matrices)) > 1e-12
    corners = np.linalg.solve(matrices[solvable], heights[chosen[solvable]][..., None])[..., 0]
    prices = np.clip(corners[:, :-1], 0.0, most)
    heights = (prices @ cuts[:, :-1].T + cuts[:, -1]).max(axis=1)
    lowest = int(heights.argmin())
    return prices[lowest], float(heights[lowest])
