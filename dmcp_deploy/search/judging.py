"""How well a plan does as it is on the trained supernet."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.steps import training_batches
from dmcp_deploy.search.temperature import scaled_cross_entropy
from dmcp_deploy.training.distributed import add_up, world_size
from dmcp_deploy.training.evaluate import batch_statistics

#: Training images that a plan is judged by, and batches of them at least.
_IMAGES, _BATCHES = 4096, 16


def supernet_loss(problem: SearchProblem, units: np.ndarray) -> float:
    """Returns the loss of a sub-network of the trained supernet (see `plan_loss`).

    It is judged on training images without augmentation, the same for all plans. Processes share
    them, and all get the same loss.
    """
    seed = step_seed(problem.request.seed, 0, "judged")
    whole = math.ceil(_IMAGES / (problem.recipe.search.batch_size * world_size()))
    images = training_batches(
        problem,
        seed,
        problem.cap_batches(max(_BATCHES, whole)),
        augment=False,
        device=problem.precision.device,
    )
    return plan_loss(problem, units, images)


@torch.no_grad()
def plan_loss(problem: SearchProblem, units: np.ndarray, batches: Iterable[Batch]) -> float:
    """Returns a plan's mean cross entropy over all processes' batches.

    Norms take the statistics of each batch, and logits their best scale. Batches are as large as
    in the search, so norms do what they did when the weights were trained.

    Args:
        problem: The search, its network the trained supernet.
        units: The plan, units [groups].
        batches: Of this process, as many as in any other.
    """
    supernet, widths = Supernet(problem.network), problem.space.widths(units)
    logits, labels = [], []
    with batch_statistics(problem.network.model):
        for batch in batches:
            moved = problem.precision.move(batch)
            with problem.precision.autocast():
                logits.append(supernet(moved.images, widths).float())
            labels.append(moved.labels)
    every = torch.cat(labels)
    loss = scaled_cross_entropy(torch.cat(logits), every, shared=True).double()
    total, count = add_up(torch.stack([loss, loss.new_tensor(len(every))])).tolist()
    return float(total / count)
