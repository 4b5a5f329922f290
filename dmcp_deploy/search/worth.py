"""What widths are worth to a search: the objective of decoding, a number per group and width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dmcp_deploy.search.space import SearchSpace

_FADING = 0.25  # of a width's probability is what the next one is taken to have at least


def log_worth(
    space: SearchSpace, probabilities: np.ndarray, axes: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Returns the log probability of each width on offer.

    The sum over groups is the log probability of the plan. Between the widths of the space it is
    interpolated linearly, and beyond the narrowest it stays. A search that is sure of a width
    gives all others a probability of almost 0, near ones and far ones alike: so that a plan that
    must leave it goes to near ones first, each width is taken to have at least a quarter of the
    probability of its neighbours.

    Args:
        space: The widths that the search chose from.
        probabilities: That each group keeps 0..K steps beyond its minimum, shape [groups, K + 1].
        axes: The units on offer of each group, ascending.
    """
    worth = []
    for group, axis in enumerate(axes):
        steps = np.arange(int(space.count[group]) + 1)
        logs = np.log(np.maximum(probabilities[group, : len(steps)], np.finfo(np.float64).tiny))
        fading = np.abs(steps[:, None] - steps) * np.log(_FADING)
        units = space.minimum[group] + space.step[group] * steps
        worth.append(np.interp(axis, units, (logs + fading).max(axis=1)))
    return worth


def near_worth(wanted: np.ndarray, axes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns minus the squared relative distance of each width on offer from a wanted one.

    Args:
        wanted: Wanted units, real numbers above 0, shape [groups].
        axes: The units on offer of each group, ascending.
    """
    return [-np.square(axis / width - 1.0) for axis, width in zip(axes, wanted, strict=True)]
