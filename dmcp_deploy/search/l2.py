"""Ranking by L2 norm, once, after the full network's training."""

from __future__ import annotations

from functools import partial

from dmcp_deploy.network.importance import filter_scores, l2_norm
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.ranking import search_by


def search(problem: SearchProblem) -> SearchResult:
    """Returns the channels of the largest L2 norms at the uniform width."""
    return search_by(problem, partial(filter_scores, measure=l2_norm))
