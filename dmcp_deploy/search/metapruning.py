"""MetaPruning: weights from widths, and evolution of the widths (Liu et al., ICCV 2019).

arXiv 1903.10258.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.sources import ImageSource
from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.search import evolution
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.evolution import Evolution, Plan
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.pruningnet import PruningNet
from dmcp_deploy.search.ranking import full_recipe
from dmcp_deploy.search.steps import (
    held_out_batches,
    recalibration_batches,
    run_steps,
    search_steps,
    without_held_out,
)
from dmcp_deploy.training.dense import DenseTask
from dmcp_deploy.training.distributed import add_up, rank, world_size
from dmcp_deploy.training.evaluate import evaluate, recalibrate


def search(problem: SearchProblem) -> SearchResult:
    """Returns the widths MetaPruning finds.

    The network's weights become those that are generated for these widths.
    """
    training, held_out = without_held_out(problem)
    steps = search_steps(training)
    task = PruningNetTask(training, steps)
    run_steps(training, task, steps, shared=steps)
    judge = PlanJudge(training, task.net, held_out)
    rules = evolution_rules(problem)
    judged = evolution.run_evolution(problem, rules, judge, at_once=world_size())
    (best,) = evolution.best_of(judged, 1)
    figures = {
        "held_out_images": judge.images,
        "plans_judged": len(judged),
        "loss": best.loss,
        "top1": best.top1,
        "generator_params": task.net.generator_params(),
        "generations": evolution.generations_report(judged),
    }
    trained = copy.deepcopy(problem.network.model.state_dict())

    def decode(limits: Limits) -> Mapping[str, int]:
        problem.network.model.load_state_dict(trained)  # generators start from these weights
        units = evolution.within_budget(replace(problem, limits=limits))(np.array(best.plan))
        task.net.settle(units, problem.network.model)
        return problem.space.widths(units)

    return SearchResult.decoded(problem, decode, figures, trained=True)


class PruningNetTask(DenseTask):
    """Trains the generators of weights, and all else that the network has, at random widths.

    Attributes:
        net: What is trained.
    """

    def __init__(self, problem: SearchProblem, steps: int) -> None:
        """Prepares `steps` steps of the recipe's search schedule."""
        self.net = PruningNet(
            problem.network, problem.space, pretrained=problem.pretrained, seed=problem.request.seed
        )
        super().__init__(self.net, full_recipe(problem), steps, problem.precision)
        self._seed = problem.request.seed
        self._values = evolution.gene_values(problem.space, problem.grid)

    def step(self, step: int, batch: Batch) -> Mapping[str, float]:
        """Does one step at widths of its own, the same in every process."""
        self.net.units = self.units_at(step)
        return super().step(step, batch)

    def units_at(self, step: int) -> np.ndarray:
        """Returns the random units [groups] of a step, each gene drawn uniformly."""
        generator = torch.Generator().manual_seed(step_seed(self._seed, step, "widths"))
        chances = torch.rand(len(self._values), generator=generator, dtype=torch.float64)
        return evolution.drawn(self._values, chances.numpy())


class PlanJudge:
    """Judges plans by the weights generated for them, on images that nothing was trained on.

    Each plan is sliced, its batch norms are recalibrated on training images, and it is evaluated.
    Processes share the plans of a call; all get the same answers.

    Attributes:
        images: How many images are looked at.
    """

    def __init__(self, problem: SearchProblem, net: PruningNet, held_out: ImageSource) -> None:
        """Prepares the images, which are held in memory.

        Args:
            problem: The search, its data without the images held out.
            net: What generates the weights.
            held_out: The images held out.
        """
        self._problem, self._net = problem, net
        self._network = replace(problem.network, model=copy.deepcopy(problem.network.model))
        batches, self.images = held_out_batches(problem, held_out)
        self._held = list(batches)
        self._recalibration = list(recalibration_batches(problem))

    def __call__(self, plans: Sequence[Plan]) -> list[tuple[float, float]]:
        """Returns the loss of each plan, and its accuracy in [0, 1]."""
        figures = torch.zeros(len(plans), 2, dtype=torch.float64)
        for place in range(rank(), len(plans), world_size()):
            figures[place] = torch.tensor(self._judge(np.array(plans[place])), dtype=torch.float64)
        loss, top1 = add_up(figures.to(self._problem.precision.device)).T.tolist()
        return list(zip(loss, top1, strict=True))

    def _judge(self, units: np.ndarray) -> tuple[float, float]:
        precision = self._problem.precision
        self._net.settle(units, self._network.model)
        dense = slice_network(self._network, self._problem.space.widths(units))
        recalibrate(dense, self._recalibration, precision)
        accuracy = evaluate(dense, self._held, precision)
        return accuracy.loss, accuracy.top1


def evolution_rules(problem: SearchProblem) -> Evolution:
    """Returns how the generations of a search come about: in a trial at most `max_steps`."""
    return Evolution(
        values=evolution.gene_values(problem.space, problem.grid),
        fit=evolution.within_budget(problem),
        population=problem.cap(problem.recipe.population),
        generations=problem.cap(problem.recipe.generations),
        seed=problem.request.seed,
    )
