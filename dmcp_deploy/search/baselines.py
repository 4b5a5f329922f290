"""What a search must beat to be worth its time: uniform scaling and random widths."""

from __future__ import annotations

from functools import partial

import torch

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.search.problem import SearchProblem, SearchResult


def search_uniform(problem: SearchProblem) -> SearchResult:
    """Returns the widths of the one width multiplier that meets the budgets; nothing is trained."""
    decode = partial(problem.widths_near, problem.space.full)
    return SearchResult.decoded(problem, decode, {}, trained=False)


def search_random(problem: SearchProblem) -> SearchResult:
    """Returns widths that every group draws for itself, scaled together to meet the budgets."""
    generator = torch.Generator().manual_seed(step_seed(problem.request.seed, 0, "random widths"))
    decode = partial(problem.widths_near, problem.space.random_units(generator))
    return SearchResult.decoded(problem, decode, {}, trained=False)
