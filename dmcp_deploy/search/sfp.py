"""Soft Filter Pruning (He et al., IJCAI 2018, arXiv 1808.06866)."""

from __future__ import annotations

from functools import partial

from dmcp_deploy.network.importance import filter_scores, l2_norm
from dmcp_deploy.search.masked import search_masked
from dmcp_deploy.search.problem import SearchProblem, SearchResult


def search(problem: SearchProblem) -> SearchResult:
    """Returns the channels of the largest L2 norms at the end of a softly pruned training.

    After every epoch the filters of the smallest norms are zeroed; they are trained on, and the
    next choice may take others.
    """
    return search_masked(problem, partial(filter_scores, measure=l2_norm), soft=True)
