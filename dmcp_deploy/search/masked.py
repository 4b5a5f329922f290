"""FPGM and SFP: the full network is trained, and its least important filters zeroed on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.full_module import full_module
from dmcp_deploy.network.importance import distance_sum, filter_scores, l2_norm
from dmcp_deploy.network.masking import bound_gradients, silence, zero_filters
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.ranking import Scores, best_units, full_recipe, ranked, search_ranked
from dmcp_deploy.search.steps import epoch_steps, run_steps, search_steps
from dmcp_deploy.training.dense import DenseTask
from dmcp_deploy.training.recipe import Recipe

_PRETRAINED_LR = 0.1  # of the learning rate for random weights


def search_fpgm(problem: SearchProblem) -> SearchResult:
    """Returns the channels whose filters lie farthest from the others at the uniform width.

    Given weights are ranked as they are. Others are trained; after the first epoch the filters
    nearest to the geometric median go, and stay at zero.
    Source: He et al., "Filter Pruning via Geometric Median", CVPR 2019, arXiv 1811.00250.
    """
    scores = partial(filter_scores, measure=distance_sum)
    if problem.pretrained:
        return search_ranked(problem, scores)
    return _search_masked(problem, scores, soft=False)


def search_sfp(problem: SearchProblem) -> SearchResult:
    """Returns the channels of the largest L2 norms at the end of a softly pruned training.

    After every epoch the filters of the smallest norms are zeroed; they are trained on, and the
    next choice may take others.
    Source: He et al., "Soft Filter Pruning", IJCAI 2018, arXiv 1808.06866.
    """
    return _search_masked(problem, partial(filter_scores, measure=l2_norm), soft=True)


class MaskedTask(DenseTask):
    """Trains the full network from hard labels and zeroes filters at the ends of epochs.

    Softly: zeroed filters are trained on and may come back, and after every epoch they are
    chosen again. Otherwise they are chosen once, after the first epoch, and stay at zero. At the
    end their channels are silent either way.

    Attributes:
        kept: Whether each unit was among the most important at the last choice, shape [units].
    """

    def __init__(self, problem: SearchProblem, steps: int, scores: Scores, *, soft: bool) -> None:
        """Prepares `steps` steps; softly, given weights have their first choice before them."""
        super().__init__(full_module(problem.network), _recipe(problem), steps, problem.precision)
        self._problem, self._network, self._scores = problem, problem.network, scores
        self._soft = soft
        self._epoch_steps = epoch_steps(problem)
        self.kept = np.ones(problem.network.unit_count, dtype=bool)
        if soft and problem.pretrained:
            self._choose()
            zero_filters(self._network, self.kept)

    def step(self, step: int, batch: Batch) -> Mapping[str, float]:
        """Does one step; at the end of an epoch "exchanged" counts units that go newly."""
        figures = dict(super().step(step, batch))
        last = step + 1 == self._steps
        if last or (step + 1) % self._epoch_steps == 0:
            if self._soft or self.kept.all():
                figures["exchanged"] = self._choose()
            zero_filters(self._network, self.kept)
        if last or not self._soft:
            silence(self._network, self.kept)
        return figures

    def final_scores(self) -> np.ndarray:
        """Returns the importance of every unit, those kept before all others, shape [units]."""
        scores = self._scores(self._network)
        return np.where(self.kept, scores + 1.0 + np.ptp(scores), scores)

    def tensors(self) -> dict[str, Tensor]:
        """Returns weights, momenta and what is kept."""
        return {**super().tensors(), "kept": torch.from_numpy(self.kept)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` returned."""
        super().load(tensors)
        self.kept = tensors["kept"].numpy()

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        figures = super()._gradients(batch)
        bound_gradients(self._network, self.kept)
        return figures

    def _choose(self) -> int:
        """Chooses the units to keep by the weights as they are; returns how many go newly."""
        before, scores = self.kept, self._scores(self._network)
        self.kept = best_units(self._problem, scores, self._problem.limits)
        return int(np.count_nonzero(before & ~self.kept))


def _search_masked(problem: SearchProblem, scores: Scores, *, soft: bool) -> SearchResult:
    steps = search_steps(problem)
    task = MaskedTask(problem, steps, scores, soft=soft)
    run_steps(problem, task, steps)
    return ranked(problem, task.final_scores(), trained=True)


def _recipe(problem: SearchProblem) -> Recipe:
    """Returns the recipe; given weights are trained at a tenth of its learning rates."""
    recipe = full_recipe(problem)
    if not problem.pretrained:
        return recipe
    rates = {f: getattr(recipe.train, f) * _PRETRAINED_LR for f in ("lr_start", "lr", "lr_end")}
    return replace(recipe, train=replace(recipe.train, **rates))
