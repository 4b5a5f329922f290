"""Search problems for tests: a network and a budget, all other fields with a sensible value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dmcp_deploy.network.cost import Cost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.models import build_network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search.fit import width_grid
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.space import search_space
from dmcp_deploy.training.precision import Precision
from dmcp_deploy.training.recipe import Recipe, Schedule

FP32 = Precision(torch.device("cpu"), bf16=False)
RECIPE = Recipe(
    name="test",
    search=Schedule(1, 32, 0.05, 0.1, 0.02, 0.05, 1e-4),
    train=Schedule(1, 32, 0.05, 0.1, 0.0, 0.05, 1e-4),
)


def small_network(seed: int = 0) -> Network:
    """Returns `small_mobilenet` at 32 pixels, freshly initialised."""
    return build_network(NetworkSpec("small_mobilenet:small_mobilenet", 1.0, 10, (3, 32, 32)), seed)


def make_problem(
    network: Network, folder: Path, *, share: float = 0.25, align: int = 1, **changes: Any
) -> SearchProblem:
    """Returns a search for a share of a network's MACs.

    Args:
        network: The network.
        folder: Where its files go.
        share: The budget as a share of the full network's MACs.
        align: Of the grid of widths.
        **changes: Fields of `SearchProblem` or of `Recipe` that differ from the defaults.
    """
    cost, space = Cost(network), search_space(network)
    problem = SearchProblem(
        network=network,
        cost=cost,
        space=space,
        grid=width_grid(space, align),
        budget_macs=int(share * cost.full_macs),
        data=None,
        recipe=RECIPE,
        seed=0,
        folder=folder,
        sampling="expected",
        precision=FP32,
        token="test",
    )
    own = {key: value for key, value in changes.items() if hasattr(problem, key)}
    recipe = {key: value for key, value in changes.items() if key not in own}
    return replace(problem, **{"recipe": replace(RECIPE, **recipe), **own})
