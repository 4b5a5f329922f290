"""Random widths: what a search must beat to be worth its time."""

from __future__ import annotations

import torch

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.search.fit import fit_widths
from dmcp_deploy.search.problem import SearchProblem, SearchResult


def search(problem: SearchProblem) -> SearchResult:
    """Returns widths that every group draws for itself, scaled together to meet the budget."""
    generator = torch.Generator().manual_seed(step_seed(problem.request.seed, 0, "random widths"))
    wanted = problem.space.random_units(generator)
    units = fit_widths(problem.cost, problem.grid, wanted, problem.budget_macs)
    return SearchResult(problem.space.widths(units), {}, trained=False)
