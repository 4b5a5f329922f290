"""Uniform scaling: every group keeps the same share of its channels. The baseline."""

from __future__ import annotations

import numpy as np

from dmcp_deploy.search.fit import fit_widths
from dmcp_deploy.search.problem import SearchProblem, SearchResult


def search(problem: SearchProblem) -> SearchResult:
    """Returns the widths of the one width multiplier that meets the budget; nothing is trained."""
    wanted = problem.space.full.astype(np.float64)
    units = fit_widths(problem.cost, problem.grid, wanted, problem.budget_macs)
    return SearchResult(problem.space.widths(units), {}, trained=False)
