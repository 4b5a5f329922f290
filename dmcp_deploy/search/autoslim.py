"""AutoSlim: one-shot search for channel numbers (Yu and Huang, 2019, arXiv 1903.11728)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F

from dmcp_deploy.data.holdout import hold_out
from dmcp_deploy.data.loader import eval_batches
from dmcp_deploy.data.sources import ImageSource
from dmcp_deploy.data.types import Batch, ImageData
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.progress import Bar
from dmcp_deploy.search.fit import check_reachable
from dmcp_deploy.search.greedy import (
    Turn,
    ladder,
    path_report,
    plan_within,
    plans_on_the_way,
    slim_down,
)
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.slimmable import SharedWeights
from dmcp_deploy.search.steps import run_steps, search_steps
from dmcp_deploy.training.checkpoint import Checkpoint, Checkpoints
from dmcp_deploy.training.distributed import add_up, is_main, rank, world_size
from dmcp_deploy.training.evaluate import batch_statistics
from dmcp_deploy.training.interrupt import caught_signals

_PERCENT = 100


def search(problem: SearchProblem) -> SearchResult:
    """Returns the widths AutoSlim finds; the network's weights are trained on the way."""
    train_supernet(problem)
    way = _way_to(problem, problem.budget_macs)
    units = plan_within(problem.cost, problem.grid, way.plans, problem.budget_macs)
    figures = {
        "held_out_images": way.images,
        "plans_judged": way.plans_judged,
        "path": path_report(problem.space, problem.cost, way.plans, way.turns),
    }
    return SearchResult(problem.space.widths(units), figures, trained=True)


def train_supernet(problem: SearchProblem) -> None:
    """Trains the shared weights in place for all of the recipe's search epochs (stage 1)."""
    rest, _ = _split(problem)
    trained = replace(problem, data=rest)
    steps = search_steps(trained)
    run_steps(trained, SharedWeights(trained, steps), steps, shared=steps)


def slim(problem: SearchProblem, budgets: Sequence[int]) -> dict[int, np.ndarray]:
    """Returns budget in MACs -> units [groups], all from one pass of greedy slimming (stage 2).

    Each budget's plan is the one that a pass for this budget alone would find. A pass that was
    stopped, or that ended at a larger budget in the same folder, goes on from its last turn.

    Args:
        problem: The search; its network is a trained supernet. Its own budget plays no part.
        budgets: The budgets.

    Raises:
        DmcpError: A budget cannot be reached.
    """
    for budget_macs in budgets:
        check_reachable(problem.cost, problem.grid, budget_macs)
    way = _way_to(problem, min(budgets))
    return {b: plan_within(problem.cost, problem.grid, way.plans, b) for b in budgets}


@dataclass(frozen=True)
class _Way:
    """What greedy slimming has done: its turns, the plans on the way, and what it looked at."""

    turns: Sequence[Turn]
    plans: Sequence[np.ndarray]
    plans_judged: int
    images: int


def _split(problem: SearchProblem) -> tuple[ImageData, ImageSource]:
    """Returns the data to train on, and the training images held out to judge by."""
    assert problem.data is not None
    return hold_out(problem.data, problem.recipe.held_out_images, problem.request.seed)


def _way_to(problem: SearchProblem, lowest_macs: int) -> _Way:
    """Returns the way down to a budget, from where an earlier pass has ended if there is one.

    Each committed step is saved before the next turn. In a trial there are at most `max_steps`
    of them.
    """
    path = problem.folder / "checkpoints" / "slim.safetensors"
    steps = ladder(problem.space, problem.grid)
    checkpoints = Checkpoints(path, problem.request.token(), problem.compute.progress)
    turns = _read_turns(checkpoints.load())
    units = plans_on_the_way(steps.high, turns)[-1]
    judge = _Judge(problem)
    more = slim_down(steps, units, judge.losses, problem.cost.macs, lowest_macs)
    most = problem.request.max_steps
    left = None if most is None else max(0, most - len(turns))
    done = _Percent(problem.cost.macs(steps.high), lowest_macs)
    first = done.at(problem.cost.macs(units))
    with (
        caught_signals() as signals,
        problem.compute.progress.task("slim", _PERCENT, done=first, unit="%") as bar,
    ):
        for turn in islice(more, left):
            turns.append(turn)
            if is_main():
                checkpoints.save(len(turns), _columns(turns))
            signals.heed_together()
            units = plans_on_the_way(units, [turn])[-1]
            first = _show(bar, first, done.at(problem.cost.macs(units)), turn)
        if turns:
            _show(bar, first, _PERCENT, turns[-1])
    plans = plans_on_the_way(steps.high, turns)
    plans_judged = sum(len(steps.slimmer(plan)) for plan in plans[:-1])
    return _Way(turns, plans, plans_judged, judge.images)


@dataclass(frozen=True)
class _Percent:
    """How far slimming has come. Its turns cannot be counted ahead, the MACs to save can."""

    start_macs: int
    end_macs: int

    def at(self, macs: int) -> int:
        """Returns the whole per cents of the MACs to save that are saved."""
        whole = max(1, self.start_macs - self.end_macs)
        return min(_PERCENT, _PERCENT * (self.start_macs - macs) // whole)


def _show(bar: Bar, shown: int, percent: int, turn: Turn) -> int:
    for _ in range(shown, percent):
        bar.advance(loss=turn.loss)
    return percent


def _columns(turns: Sequence[Turn]) -> dict[str, torch.Tensor]:
    return {
        "group": torch.tensor([turn.group for turn in turns], dtype=torch.int64),
        "units": torch.tensor([turn.units for turn in turns], dtype=torch.int64),
        "loss": torch.tensor([turn.loss for turn in turns], dtype=torch.float64),
    }


def _read_turns(saved: Checkpoint | None) -> list[Turn]:
    if saved is None:
        return []
    columns = [saved.tensors[name].tolist() for name in ("group", "units", "loss")]
    return [Turn(*row) for row in zip(*columns, strict=True)]


class _Judge:
    """Losses of sub-networks on fixed training images, none of which they were trained on.

    Batch norms use the statistics of the batch, as in the supernet's training: batches are as
    large as there. Every process looks at its share of the batches, and all get the same losses.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        problem.precision.place(problem.network.model)
        self._supernet = Supernet(problem.network)
        _, held = _split(problem)
        size = min(problem.recipe.search.batch_size, len(held))
        count = problem.cap_batches(len(held) // size)
        self.images = count * size
        self._batches = list(_own_batches(problem, held, size, count))

    @torch.no_grad()
    def losses(self, plans: Sequence[np.ndarray]) -> list[float]:
        """Returns the mean cross entropy of each plan."""
        with batch_statistics(self._problem.network.model):
            own = torch.stack([self._loss_sum(plan) for plan in plans])
        found: list[float] = (add_up(own) / self.images).tolist()
        return found

    def _loss_sum(self, plan: np.ndarray) -> torch.Tensor:
        precision = self._problem.precision.alone()  # processes may have fewer batches than others
        widths = self._problem.space.widths(plan)
        total = torch.zeros((), dtype=torch.float64, device=precision.device)
        for batch in self._batches:
            with precision.autocast():
                logits = self._supernet(batch.images, widths)
            total += F.cross_entropy(logits.float(), batch.labels, reduction="sum")
        return total


def _own_batches(
    problem: SearchProblem, held: ImageSource, size: int, count: int
) -> Sequence[Batch]:
    """Returns this process's share of the first `count` whole batches, on the device."""
    batches = eval_batches(held, image_size=problem.image_size, batch_size=size)
    own = islice(batches, rank(), count, world_size())
    return [problem.precision.move(batch) for batch in own]
