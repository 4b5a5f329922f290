"""Filter Pruning via Geometric Median (He et al., CVPR 2019, arXiv 1811.00250)."""

from __future__ import annotations

from functools import partial

from dmcp_deploy.network.importance import distance_sum, filter_scores
from dmcp_deploy.search.masked import search_masked
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.ranking import search_by


def search(problem: SearchProblem) -> SearchResult:
    """Returns the channels whose filters lie farthest from the others at the uniform width.

    Given weights are ranked as they are. Others are trained; after the first epoch the filters
    nearest to the geometric median go, and stay at zero.
    """
    scores = partial(filter_scores, measure=distance_sum)
    if problem.pretrained:
        return search_by(problem, scores)
    return search_masked(problem, scores, soft=False)
