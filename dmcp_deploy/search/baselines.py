"""What a search must beat to be worth its time: uniform scaling and random widths."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.layers import WEIGHTED
from dmcp_deploy.search.problem import SearchProblem, SearchResult

#: How much wider a group is wanted than others that shall all be at their narrowest before it.
_BEFORE_ALL = 1000


def search_uniform(problem: SearchProblem) -> SearchResult:
    """Returns the widths of the one width multiplier that meets the budgets; nothing is trained."""
    decode = partial(problem.widths_near, problem.space.full)
    return SearchResult.decoded(problem, decode, {}, trained=False)


def search_uniform_keep_last(problem: SearchProblem) -> SearchResult:
    """Returns uniform widths of all groups but those that the last layer reads.

    These stay whole, unless the budgets ask for less than the narrowest network with them, or the
    steps of the others are too coarse to fill them to 98%, as in tiny networks. The paper's uniform
    MobileNetV2 is of this kind: its last convolution keeps 1280 channels.
    """
    full = problem.space.full
    wanted = np.where(_read_last(problem.network), _BEFORE_ALL * full, full)
    decode = partial(problem.widths_near, wanted)
    return SearchResult.decoded(problem, decode, {}, trained=False)


def search_random(problem: SearchProblem) -> SearchResult:
    """Returns widths that every group draws for itself, scaled together to meet the budgets."""
    generator = torch.Generator().manual_seed(step_seed(problem.request.seed, 0, "random widths"))
    decode = partial(problem.widths_near, problem.space.random_units(generator))
    return SearchResult.decoded(problem, decode, {}, trained=False)


def _read_last(network: Network) -> np.ndarray:
    """Returns whether the last layer of a network that has weights reads each group, [groups]."""
    *_, last = (layer for layer in network.layers.values() if layer.kind in WEIGHTED)
    read = np.zeros(network.unit_count + 1, dtype=bool)
    if last.inputs is not None:
        read[last.inputs] = True  # the last place is of what is always kept
    return np.array([read[group.first] for group in network.prunable])
