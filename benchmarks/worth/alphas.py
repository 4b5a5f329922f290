"""The architecture parameters moved as DMCP moves them, apart from what else a search does."""

from __future__ import annotations

import torch
from torch import Tensor

from dmcp_deploy.search.architecture import Architecture
from dmcp_deploy.search.budget_loss import budget_loss
from dmcp_deploy.search.problem import SearchProblem


def new_architecture(problem: SearchProblem) -> Architecture:
    """Returns a search's alphas at their start; their gates stay on the CPU as well."""
    cpu = torch.device("cpu")
    return Architecture(problem.space, problem.limits, problem.recipe.transition, cpu)


def move_alphas(
    problem: SearchProblem, architecture: Architecture, task: Tensor | None, done: float
) -> None:
    """Moves the alphas by task and budget loss where a share of stage 2 is done."""
    recipe = problem.recipe
    budget = budget_loss(architecture.expected_share())
    architecture.move(recipe.budget_weight * budget, recipe.alpha_lr_at(done), task)


def blind_widths(problem: SearchProblem, steps: int) -> dict[str, int]:
    """Returns the plan of a search whose alphas see the budget loss alone, and no image."""
    architecture = new_architecture(problem)
    for step in range(steps):
        move_alphas(problem, architecture, None, step / max(1, steps))
    return problem.widths_near(architecture.expected_units().detach().numpy(), problem.limits)
