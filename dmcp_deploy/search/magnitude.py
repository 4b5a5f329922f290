"""Ranking by magnitude: the norms of filters (l1, l2), or the scales of batch norms (bn-scale)."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from dmcp_deploy.data.types import Batch
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.importance import filter_scores, l1_norm, l2_norm, scale_scores
from dmcp_deploy.network.layers import is_norm
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.ranking import search_ranked
from dmcp_deploy.training.dense import DenseTask
from dmcp_deploy.training.precision import Precision
from dmcp_deploy.training.recipe import Recipe

_PENALTY = 1e-4  # of the L1 norm of the scales


def search_l1(problem: SearchProblem) -> SearchResult:
    """Returns the channels of the largest L1 norms at the uniform width.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", arXiv 1608.08710.
    """
    return search_ranked(problem, partial(filter_scores, measure=l1_norm))


def search_l2(problem: SearchProblem) -> SearchResult:
    """Returns the channels of the largest L2 norms at the uniform width."""
    return search_ranked(problem, partial(filter_scores, measure=l2_norm))


def search_bn_scale(problem: SearchProblem) -> SearchResult:
    """Returns the channels of the largest scales at the uniform width.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
    ICCV 2017, arXiv 1708.06519.

    Raises:
        DmcpError: The network has no scales to rank by.
    """
    if np.isnan(scale_scores(problem.network)).all():
        raise DmcpError(
            f"bn-scale ranks channels by the scales of batch norms, and"
            f" {problem.network.spec.model} has none: choose l1, l2, fpgm or sfp."
        )
    return search_ranked(problem, bn_scale_scores, SparseTask)


def bn_scale_scores(network: Network) -> np.ndarray:
    """Returns the importance of every unit, shape [units].

    Groups that no normalisation scales are ranked by the L1 norms of their filters.
    """
    scales = scale_scores(network)
    return np.where(np.isnan(scales), filter_scores(network, l1_norm), scales)


class SparseTask(DenseTask):
    """Trains from hard labels with an L1 penalty on the scales of normalisations."""

    def __init__(self, model: nn.Module, recipe: Recipe, steps: int, precision: Precision) -> None:
        super().__init__(model, recipe, steps, precision)
        scales = (m._parameters.get("weight") for m in model.modules() if is_norm(m))
        self._scales = [scale for scale in scales if scale is not None]

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        figures = super()._gradients(batch)
        for scale in self._scales:
            if scale.grad is not None:
                scale.grad.add_(torch.sign(scale.detach()), alpha=_PENALTY)
        return figures
