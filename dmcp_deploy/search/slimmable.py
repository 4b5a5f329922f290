"""Weights that every width shares: what methods do that search on a slimmable network."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.training.distributed import average_gradients
from dmcp_deploy.training.sandwich import read_figures, sandwich_gradients
from dmcp_deploy.training.task import TrainedWeights

#: The name of the digest of drawn widths among a task's tensors.
DRAWN = "drawn"

#: (place among the random networks, a number drawn from [0, 1), generator) -> units [groups].
Draw = Callable[[int, float, torch.Generator], np.ndarray]


class SharedWeights:
    """Trains the weights by the sandwich rule with widths of their own for every group.

    A step adds up the gradients of the full network, of the narrowest one and of some random
    ones (AutoSlim, 3.3, and stage 1 of DMCP).
    """

    def __init__(self, problem: SearchProblem, steps: int) -> None:
        """Prepares `steps` steps of the recipe's schedule on a problem's network."""
        self._problem = problem
        self.model = problem.precision.place(problem.network.model).train()
        self.supernet = Supernet(problem.network).train()
        self._weights = TrainedWeights(self.model, problem.recipe.search, steps)
        self._drawn = 0

    def step(self, step: int, batch: Batch, draw: Draw | None = None) -> dict[str, float]:
        """Does one step; returns "loss" of the full network and "distill" of the narrow ones."""
        recipe, precision = self._problem.recipe, self._problem.precision
        self._weights.start(step)
        networks = self.networks(step, draw)
        self._drawn = zlib.crc32(np.concatenate(networks).tobytes(), self._drawn)
        narrow = [self._problem.space.widths(units) for units in networks]
        moved = precision.move(batch)
        smoothing = recipe.smoothing_in_search
        losses = sandwich_gradients(self.supernet, moved, narrow, smoothing, precision)
        average_gradients(self.model.parameters(), losses.values())
        self._weights.move()
        return read_figures(losses)

    def networks(self, step: int, draw: Draw | None = None) -> list[np.ndarray]:
        """Returns the narrowest and the random networks of a step, units [groups] each.

        They depend on the seed and the step alone: every process draws the same. Their widths are
        the nearest ones that a plan may have: multiples of 8 are quick, odd ones are not.

        Args:
            step: The step.
            draw: What draws a random network; None draws each group's width uniformly.
        """
        generator = torch.Generator().manual_seed(
            step_seed(self._problem.request.seed, step, "widths")
        )
        networks = [self._problem.space.minimum]
        for place in range(self._problem.recipe.random_networks):
            chance = torch.rand(1, generator=generator).item()
            networks.append((draw or self.uniform)(place, chance, generator))
        return [self._problem.grid.nearest(units) for units in networks]

    def uniform(self, _place: int, _chance: float, generator: torch.Generator) -> np.ndarray:
        """Returns a network whose every group draws its own width uniformly, units [groups]."""
        return self._problem.space.random_units(generator)

    def tensors(self) -> dict[str, Tensor]:
        """Returns weights and momenta, and a digest of all widths that were drawn so far."""
        return {**self._weights.tensors(), DRAWN: torch.tensor(self._drawn)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores weights and momenta."""
        self._weights.load(tensors)
        self._drawn = int(tensors.get(DRAWN, 0))  # older checkpoints lack it
