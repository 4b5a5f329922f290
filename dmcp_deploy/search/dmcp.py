"""DMCP: Differentiable Markov Channel Pruning (Guo et al., CVPR 2020, arXiv 2005.03354)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmcp_deploy.data.types import Batch
from dmcp_deploy.plan import LOWEST_SHARE, Keep
from dmcp_deploy.rundir.directory import KEPT
from dmcp_deploy.search import markov, sampling
from dmcp_deploy.search.architecture import Architecture
from dmcp_deploy.search.budget_loss import budget_loss
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.costs.macs import MacsCost
from dmcp_deploy.search.decode import decode
from dmcp_deploy.search.fit import scaled_widths
from dmcp_deploy.search.problem import DecodedWidths, SearchProblem, SearchResult
from dmcp_deploy.search.slimmable import SharedWeights
from dmcp_deploy.search.steps import run_steps, search_steps
from dmcp_deploy.search.worth import near_worth
from dmcp_deploy.training.distributed import average

#: How often in stage 2 the metrics tell what every group is expected to keep.
_SNAPSHOTS = 40


def search(problem: SearchProblem) -> SearchResult:
    """Returns the widths DMCP finds; the network's weights are trained on the way.

    Stage 1 trains the shared weights by the sandwich rule. Stage 2 goes on with that and, after
    every weight step, moves the architecture parameters by the loss of the gated full network
    and the expected cost.
    """
    return _search(problem, DmcpTask, problem.request.sampling)


def search_budget_only(problem: SearchProblem) -> SearchResult:
    """Returns the widths that the budget loss leads to alone: no image reaches the alphas.

    All else is as in a DMCP search, the training of the weights too. What DMCP's plan is worth
    beyond this one's is what the images have found, so none of them may choose here: the plan is
    always that of the expected widths.
    """
    return _search(problem, BudgetOnlyTask, "expected")


class DmcpTask:
    """One step of either stage, and the state it changes.

    Attributes:
        first_architecture_step: With which stage 2 begins.
        architecture: The architecture parameters.
    """

    def __init__(self, problem: SearchProblem, steps: int) -> None:
        """Prepares a search of `steps` weight steps, the last share of them with stage 2."""
        self._problem, self._steps = problem, steps
        self.first_architecture_step = steps - round(problem.recipe.architecture_share * steps)
        self._weights = SharedWeights(problem, steps)
        self.architecture = Architecture(
            problem.space,
            problem.limits,
            problem.recipe.transition,
            problem.precision.device,
        )

    def step(self, step: int, batch: Batch) -> Mapping[str, float]:
        """Does one weight step and, in stage 2, one architecture step; returns their figures."""
        moved = self._problem.precision.move(batch)
        draw = partial(self._draw, step)
        figures: dict[str, float] = self._weights.step(step, moved, draw)
        if step >= self.first_architecture_step:
            figures |= self._architecture_step(step, moved)
        return figures

    def task_loss(self, batch: Batch) -> Tensor:
        """Returns the cross entropy of the full network gated by the probabilities.

        Its gradient reaches the alphas through the gates alone; weights are left out.
        """
        learnt = [p for p in self._weights.model.parameters() if p.requires_grad]
        for parameter in learnt:
            parameter.requires_grad_(False)
        with self._problem.precision.autocast():
            logits = self._weights.supernet(batch.images, gates=self.architecture.gates())
        for parameter in learnt:
            parameter.requires_grad_(True)
        smoothing = self._problem.recipe.smoothing_in_search
        return F.cross_entropy(logits.float(), batch.labels, label_smoothing=smoothing)

    def tensors(self) -> dict[str, Tensor]:
        """Returns weights, alphas and momenta."""
        return {**self._weights.tensors(), **self.architecture.tensors()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores weights, alphas and momenta."""
        self._weights.load(tensors)
        self.architecture.load(tensors)

    def _architecture_step(self, step: int, batch: Batch) -> dict[str, float]:
        """Moves the alphas by one step while the weights stand still."""
        first = self.first_architecture_step
        lr = self._problem.recipe.alpha_lr_at((step - first) / max(1, self._steps - first))
        task = self.task_loss(batch)
        budget = budget_loss(self.architecture.expected_share())
        share = self.architecture.move(self._problem.recipe.budget_weight * budget, lr, task)
        figures = {"arch_loss": float(average(task.detach())), "expected_share": share}
        every = max(1, (self._steps - first) // _SNAPSHOTS)
        if (step - first) % every == 0 or step + 1 == self._steps:
            figures |= self._kept_shares()
        return figures

    def _kept_shares(self) -> dict[str, float]:
        """Returns for every group the share of its channels that it is expected to keep."""
        space = self._problem.space
        shares = self.architecture.expected_units().detach().cpu().numpy() / space.full
        names = (f"{KEPT}{name}" for name in space.names)
        return dict(zip(names, shares.tolist(), strict=True))

    def _draw(self, step: int, place: int, chance: float, generator: torch.Generator) -> np.ndarray:
        """Returns a random network of a step, units [groups].

        In stage 1 every group draws its own width. In stage 2 networks come from the Markov
        process, but for scheduled ones (`Recipe.sample_schedule`), which are drawn as in stage 1
        with a probability that decays.
        """
        since, last = step - self.first_architecture_step, self._steps - 1
        done = since / max(1, last - self.first_architecture_step)
        if since < 0 or chance < self._problem.recipe.random_chance(place, done):
            return self._weights.uniform(place, chance, generator)
        probabilities = self.architecture.probabilities().detach().cpu()
        steps = markov.sample_steps(probabilities, generator)
        return self._problem.space.units(steps.numpy())


class BudgetOnlyTask(DmcpTask):
    """A search whose images train the weights and have no say in the architecture."""

    def task_loss(self, batch: Batch) -> Tensor:
        """Returns what `DmcpTask` does as a figure alone, without a gradient."""
        with torch.no_grad():
            return super().task_loss(batch)


def _search(problem: SearchProblem, kind: type[DmcpTask], way: str) -> SearchResult:
    steps = search_steps(problem)
    task = kind(problem, steps)
    run_steps(problem, task, steps, shared=task.first_architecture_step)
    return _read_plan(problem, task, way)


def _read_plan(problem: SearchProblem, task: DmcpTask, way: str) -> SearchResult:
    architecture = task.architecture
    probabilities = architecture.probabilities().detach().cpu()
    widths = architecture.width_probabilities().detach()
    macs = MacsCost(problem.accounting, problem.space)
    figures: dict[str, object] = {
        "expected_macs": round(float(macs.expected(widths))),
        "expected_share": round(float(architecture.expected_share().detach()), 4),
        "groups": list(problem.space.names),
        "probabilities": [
            [round(p, 4) for p in row[: int(n)]]
            for row, n in zip(probabilities.tolist(), problem.space.count, strict=True)
        ],
    }
    if way == "markov":
        return _best_draw(problem, probabilities, figures)
    wanted = architecture.expected_units().detach().cpu().numpy()
    again = partial(nearest_widths, problem, wanted)
    return SearchResult.decoded(problem, again, figures, trained=True)


def nearest_widths(
    problem: SearchProblem, wanted: np.ndarray, limits: Limits
) -> Mapping[str, int | Keep]:
    """Returns the widths nearest to the expected ones that meet budgets, by group.

    The probabilities of a group are high at both ends of its range and low between them: the
    likeliest plan within a budget keeps some groups whole and starves others, which the
    expectation, of which DMCP reads its plan, does not.
    """
    if all(isinstance(limit.cost, MacsCost) for limit in limits.limits):
        return problem.widths_near(wanted, limits)  # the plans of every release
    axes = problem.grid.spread_axes()
    worth = near_worth(scaled_widths(limits, problem.grid, wanted), axes)
    decoded = decode(limits, axes, worth, least=LOWEST_SHARE)
    return DecodedWidths(problem.space.widths(decoded.units), is_proven=decoded.is_proven)


def _best_draw(
    problem: SearchProblem, probabilities: Tensor, figures: Mapping[str, object]
) -> SearchResult:
    units, candidates = sampling.best_draw(problem, probabilities)
    judged = {"candidates": candidates, "plans_judged": len(candidates)}

    def again(limits: Limits) -> Mapping[str, int]:
        units, _ = sampling.best_draw(replace(problem, limits=limits), probabilities)
        return problem.space.widths(units)

    return SearchResult(problem.space.widths(units), {**figures, **judged}, True, again)
