"""Ranking by L1 norm: Pruning Filters for Efficient ConvNets (Li et al., arXiv 1608.08710)."""

from __future__ import annotations

from functools import partial

from dmcp_deploy.network.importance import filter_scores, l1_norm
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.ranking import search_by


def search(problem: SearchProblem) -> SearchResult:
    """Returns the channels of the largest L1 norms at the uniform width."""
    return search_by(problem, partial(filter_scores, measure=l1_norm))
