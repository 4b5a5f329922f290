"""How well plans do as they are on the trained supernet, by training images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.temperature import scaled_cross_entropy
from dmcp_deploy.training.distributed import add_up
from dmcp_deploy.training.evaluate import batch_statistics


class PlanJudge:
    """Losses of sub-networks, norms on the statistics of each batch, logits at their best scale.

    Batches are as large as in the search, so norms do what they did when the weights were trained.

    Attributes:
        problem: The search, on whose network plans are judged.
    """

    def __init__(self, problem: SearchProblem) -> None:
        """Judges nothing yet."""
        self.problem = problem
        self._supernet = Supernet(problem.network)

    @torch.no_grad()
    def loss(self, units: np.ndarray, batches: Iterable[Batch]) -> float:
        """Returns a plan's mean cross entropy over all processes' batches.

        Args:
            units: The plan, units [groups].
            batches: Of this process, as many as in any other.
        """
        precision = self.problem.precision
        widths = self.problem.space.widths(units)
        logits, labels = [], []
        with batch_statistics(self.problem.network.model):
            for batch in batches:
                moved = precision.move(batch)
                with precision.autocast():
                    logits.append(self._supernet(moved.images, widths).float())
                labels.append(moved.labels)
        every = torch.cat(labels)
        loss = scaled_cross_entropy(torch.cat(logits), every, shared=True).double()
        total, count = add_up(torch.stack([loss, loss.new_tensor(len(every))])).tolist()
        return float(total / count)
