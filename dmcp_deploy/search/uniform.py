"""Uniform scaling: every group keeps the same share of its channels. The baseline."""

from __future__ import annotations

from dmcp_deploy.search.problem import SearchProblem, SearchResult


def search(problem: SearchProblem) -> SearchResult:
    """Returns the widths of the one width multiplier that meets the budget; nothing is trained."""
    return SearchResult(problem.space.widths(problem.uniform_units()), {}, trained=False)
