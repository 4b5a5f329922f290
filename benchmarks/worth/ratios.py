"""What a group's width is worth: the loss it saves per percent of the budget it takes.

At an optimum under a budget this is equal in all groups that are not at an end of their range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dmcp_deploy.data.types import Batch
from dmcp_deploy.search.architecture import Architecture
from dmcp_deploy.search.problem import SearchProblem

if TYPE_CHECKING:
    from worth.headroom import Judge

_PERCENT = 0.01
_FLAT = 1e-12  # squared gradient of a group's expected width: its alphas are at an end


def gated_worth(
    problem: SearchProblem,
    architecture: Architecture,
    task_loss: Callable[[Batch], Tensor],
    images: Sequence[Batch],
) -> list[float | None]:
    """Returns the worth of each group as a search sees it: by the loss of the gated full network.

    It is -(d task / d E[w]) / (d E[MACs] / d E[w]) along the gradient of the group's E[w] by its
    alphas, for one percent of the budget; None for a group whose alphas are at an end.

    Args:
        problem: The search.
        architecture: Its alphas.
        task_loss: The gated network's loss on a batch.
        images: To average over.
    """
    alphas = architecture.alphas
    size = problem.recipe.search.batch_size  # the supernet's norms look at a batch as in training
    parts = [b for batch in images for b in _parts(batch, size)]
    slope = torch.zeros_like(alphas)
    for part in parts:
        loss = task_loss(problem.precision.move(part))
        slope += torch.autograd.grad(loss, [alphas])[0] / len(parts)
    (width,) = torch.autograd.grad(architecture.expected_units().sum(), [alphas])
    (share,) = torch.autograd.grad(architecture.expected_share(), [alphas])
    along = [(gradient * width).sum(1) for gradient in (slope, share, width)]
    rows = zip(*(values.tolist() for values in along), strict=True)
    return [
        -_PERCENT * task / cost if square > _FLAT and cost else None for task, cost, square in rows
    ]


def sliced_worth(judge: Judge, units: np.ndarray) -> list[float | None]:
    """Returns the worth of each group in a plan: by the losses of the plans on both sides of it.

    Args:
        judge: Judges plans.
        units: The plan, units [groups].
    """
    space, grid, limits = judge.problem.space, judge.problem.grid, judge.problem.limits
    worth: list[float | None] = []
    for group in range(len(units)):
        ends = [units.copy(), units.copy()]
        for end, step in zip(ends, (-space.step[group], space.step[group]), strict=True):
            end[group] = np.clip(units[group] + step, grid.low[group], grid.high[group])
        (low, _), (high, _) = judge([tuple(end) for end in ends])
        cost = limits.share(ends[1]) - limits.share(ends[0])
        worth.append(_PERCENT * (low - high) / cost if cost else None)
    return worth


def _parts(batch: Batch, size: int) -> list[Batch]:
    """Returns a batch as whole batches of another size; what remains is left out."""
    count = max(1, len(batch.labels) // size)
    slices = [slice(n * size, (n + 1) * size) for n in range(count)]
    return [Batch(batch.images[part], batch.labels[part]) for part in slices]
