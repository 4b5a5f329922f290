"""What a search must beat to be worth its time: uniform scaling and random widths."""

from __future__ import annotations

import torch

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.search.fit import fit_widths
from dmcp_deploy.search.problem import SearchProblem, SearchResult


def search_uniform(problem: SearchProblem) -> SearchResult:
    """Returns the widths of the one width multiplier that meets the budget; nothing is trained."""
    return SearchResult(problem.space.widths(problem.uniform_units()), {}, trained=False)


def search_random(problem: SearchProblem) -> SearchResult:
    """Returns widths that every group draws for itself, scaled together to meet the budget."""
    generator = torch.Generator().manual_seed(step_seed(problem.request.seed, 0, "random widths"))
    wanted = problem.space.random_units(generator)
    units = fit_widths(problem.cost, problem.grid, wanted, problem.budget_macs)
    return SearchResult(problem.space.widths(units), {}, trained=False)
