"""AutoSlim: one-shot search for channel numbers (Yu and Huang, 2019, arXiv 1903.11728)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F

from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.progress import Bar
from dmcp_deploy.search import greedy
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.fit import check_reachable
from dmcp_deploy.search.greedy import Turn
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.saved_rows import SavedRows
from dmcp_deploy.search.slimmable import SharedWeights
from dmcp_deploy.search.steps import held_out_batches, run_steps, search_steps, without_held_out
from dmcp_deploy.training.distributed import add_up, rank, world_size
from dmcp_deploy.training.evaluate import batch_statistics
from dmcp_deploy.training.interrupt import caught_signals

_PERCENT = 100


def search(problem: SearchProblem) -> SearchResult:
    """Returns the widths AutoSlim finds; the network's weights are trained on the way."""
    train_supernet(problem)
    descent = _descend(problem, [problem.limits])
    figures = {
        "held_out_images": descent.images,
        "plans_judged": descent.plans_judged,
        "path": greedy.path_report(problem.space, problem.accounting, descent.plans, descent.turns),
    }

    def decode(limits: Limits) -> Mapping[str, int]:
        return problem.space.widths(greedy.plan_within(limits, problem.grid, descent.plans))

    return SearchResult.decoded(problem, decode, figures, trained=True)


def train_supernet(problem: SearchProblem) -> None:
    """Trains the shared weights in place for all of the recipe's search epochs (stage 1)."""
    training, _ = without_held_out(problem)
    steps = search_steps(training)
    run_steps(training, SharedWeights(training, steps), steps, shared=steps)


def slim(problem: SearchProblem, budgets: Sequence[Limits]) -> list[np.ndarray]:
    """Returns units [groups] for each budget, all from one pass of greedy slimming (stage 2).

    Each budget's plan is the one that a pass for this budget alone would find. A pass that was
    stopped, or that ended at a larger budget in the same folder, goes on from its last turn.

    Args:
        problem: The search; its network is a trained supernet. Its own limits play no part.
        budgets: The limits of each plan.

    Raises:
        DmcpError: A budget cannot be reached.
    """
    for limits in budgets:
        check_reachable(limits, problem.grid)
    descent = _descend(problem, budgets)
    return [greedy.plan_within(limits, problem.grid, descent.plans) for limits in budgets]


@dataclass(frozen=True)
class _Descent:
    """What greedy slimming has done: its turns, the plans on the way, and what it looked at."""

    turns: Sequence[Turn]
    plans: Sequence[np.ndarray]
    plans_judged: int
    images: int


def _descend(problem: SearchProblem, budgets: Sequence[Limits]) -> _Descent:
    """Slims from the full network until all budgets are met, from where an earlier pass ended.

    Each committed step is saved before the next turn. In a trial there are at most `max_steps`
    of them.
    """
    steps = greedy.ladder(problem.space, problem.grid)
    saved = SavedRows(problem, "slim", Turn)
    units = greedy.plans_on_the_way(problem.grid.high, saved.rows)[-1]
    judge = _Judge(problem)
    limit = problem.request.max_steps
    most = None if limit is None else max(0, limit - len(saved.rows))

    def excess(units: np.ndarray) -> float:
        return max(limits.share(units) for limits in budgets) - 1.0

    turns = islice(greedy.slim_down(steps, units, judge.losses, lambda u: excess(u) <= 0), most)
    whole = excess(problem.grid.high) or 1.0

    def percent(units: np.ndarray) -> int:  # turns cannot be counted ahead, what is to go can
        return min(_PERCENT, int(_PERCENT * (1 - excess(units) / whole)))

    shown = percent(units)
    with (
        caught_signals() as signals,
        problem.compute.progress.task("slim", _PERCENT, done=shown, unit="%") as bar,
    ):
        for turn in turns:
            saved.add([turn])
            signals.heed_together()
            units = greedy.plans_on_the_way(units, [turn])[-1]
            shown = _show(bar, shown, percent(units), turn)
        if saved.rows:
            _show(bar, shown, _PERCENT, saved.rows[-1])
    plans = greedy.plans_on_the_way(problem.grid.high, saved.rows)
    plans_judged = sum(len(steps.slimmer(plan)) for plan in plans[:-1])
    return _Descent(saved.rows, plans, plans_judged, judge.images)


def _show(bar: Bar, shown: int, percent: int, turn: Turn) -> int:
    for _ in range(shown, percent):
        bar.advance(loss=turn.loss)
    return percent


class _Judge:
    """Losses of sub-networks on fixed training images, none of which they were trained on.

    Batch norms use the statistics of the batch, as in the supernet's training: batches are as
    large as there. Every process looks at its share of the batches, and all get the same losses.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        problem.precision.place(problem.network.model)
        self._supernet = Supernet(problem.network)
        batches, self.images = held_out_batches(problem, without_held_out(problem)[1])
        share = islice(batches, rank(), None, world_size())
        self._batches = [problem.precision.move(batch) for batch in share]

    @torch.no_grad()
    def losses(self, plans: Sequence[np.ndarray]) -> list[float]:
        """Returns the mean cross entropy of each plan."""
        with batch_statistics(self._problem.network.model):
            sums = torch.stack([self._loss_sum(plan) for plan in plans])
        means: list[float] = (add_up(sums) / self.images).tolist()
        return means

    def _loss_sum(self, plan: np.ndarray) -> torch.Tensor:
        precision = self._problem.precision.alone()  # processes may have fewer batches than others
        widths = self._problem.space.widths(plan)
        total = torch.zeros((), dtype=torch.float64, device=precision.device)
        for batch in self._batches:
            with precision.autocast():
                logits = self._supernet(batch.images, widths)
            total += F.cross_entropy(logits.float(), batch.labels, reduction="sum")
        return total
