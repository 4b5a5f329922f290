"""Methods that rank filters: how many each group keeps is uniform, which ones is their choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from dmcp_deploy.network.full_module import full_module
from dmcp_deploy.network.graph import Group, Network
from dmcp_deploy.plan import Keep
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.steps import run_steps, search_steps
from dmcp_deploy.training.dense import DenseTask
from dmcp_deploy.training.recipe import Recipe

#: A network -> the importance of each of its units, shape [units].
Scores = Callable[[Network], np.ndarray]


def search_ranked(
    problem: SearchProblem, scores: Scores, task: type[DenseTask] = DenseTask
) -> SearchResult:
    """Returns the most important channels of every group at the uniform width.

    Given weights are ranked as they are. Others are trained first, all of them, by the recipe's
    search schedule.

    Args:
        problem: The search.
        scores: Returns the importance of every unit of a network, shape [units].
        task: How the full network is trained.
    """
    train_full(problem, task)
    return ranked(problem, scores(problem.network), trained=not problem.pretrained)


def ranked(problem: SearchProblem, scores: np.ndarray, *, trained: bool) -> SearchResult:
    """Returns the channels of the highest scores [units] in every group at the uniform width."""

    def decode(limits: Limits) -> Mapping[str, Keep]:
        return keeps(problem.network, best_units(problem, scores, limits))

    return SearchResult.decoded(problem, decode, {}, trained=trained)


def train_full(problem: SearchProblem, task: type[DenseTask] = DenseTask) -> None:
    """Trains the full network by the recipe's search schedule; given weights stay as they are."""
    if problem.pretrained:
        return
    steps = search_steps(problem)
    training = task(full_module(problem.network), full_recipe(problem), steps, problem.precision)
    run_steps(problem, training, steps, shared=steps)


def full_recipe(problem: SearchProblem) -> Recipe:
    """Returns the recipe by which a `DenseTask` trains the full network of a search."""
    recipe = problem.recipe
    smoothing = recipe.smoothing_in_search
    # A search reads the weights of the last step, no average of them.
    return replace(recipe, train=recipe.search, label_smoothing=smoothing, ema_decay=0.0)


def best_units(problem: SearchProblem, scores: np.ndarray, limits: Limits) -> np.ndarray:
    """Returns whether each unit is among its group's most important at the uniform width.

    Args:
        problem: The search.
        scores: The importance of every unit, shape [units].
        limits: The budgets, which set the one width multiplier for all groups.
    """
    return top_units(problem.network, scores, problem.uniform_units(limits))


def top_units(network: Network, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns whether each unit is among its group's most important, shape [units].

    Args:
        network: The network.
        scores: The importance of every unit, shape [units].
        counts: How many units each group keeps, shape [groups].
    """
    kept = np.zeros(len(scores), dtype=bool)
    for group, count in zip(network.prunable, counts, strict=True):
        group_scores = scores[group.first : group.first + group.units]
        kept[group.first + np.argsort(-group_scores, kind="stable")[:count]] = True
    return kept


def keeps(network: Network, kept: np.ndarray) -> Mapping[str, Keep]:
    """Returns what every prunable group keeps, for whether each unit is kept, shape [units]."""
    return {group.name: _keep(group, kept) for group in network.prunable}


def _keep(group: Group, kept: np.ndarray) -> Keep:
    indices = np.flatnonzero(kept[group.first + group.unit_of]).tolist()
    leading = indices == list(range(len(indices)))
    return Keep(group.size, len(indices) if leading else tuple(indices))
