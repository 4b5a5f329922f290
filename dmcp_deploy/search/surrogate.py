"""A plan decoded from a surrogate: what widths cost in loss, fitted to many sampled sub-networks.

The loss of the gated full network, which moves DMCP's alphas, tells only in part how narrow
networks do. Here these are run: plans are sampled around one within the budgets, each is judged by
few training images, and their losses are fitted by a sum over groups of parabolas in the logarithm
of the width. A single loss is far too rough to choose by; some hundreds of them tell the slopes.
The best plan by that sum is decoded exactly, and the next round samples around it.

Sources: Box and Wilson, "On the Experimental Attainment of Optimum Conditions", 1951; for the
ridge's choice Golub, Heath and Wahba, "Generalized Cross-Validation as a Method for Choosing a Good
Ridge Parameter", 1979.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.plan import LOWEST_SHARE
from dmcp_deploy.search.decode import decode
from dmcp_deploy.search.fit import fit_widths
from dmcp_deploy.search.judging import PlanJudge
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.sampling import supernet_loss
from dmcp_deploy.search.saved_rows import SavedRows
from dmcp_deploy.search.steps import training_batches
from dmcp_deploy.training.distributed import world_size
from dmcp_deploy.training.interrupt import caught_signals

_ROUNDS = 3
_PANEL = 5  # plans that the same images judge, so that what these differ in drops out
_IMAGES = 256  # of a panel at least
_SPREAD = 0.3  # deviation of the logarithm of a sampled width
_REACH = 0.5  # by which the logarithm of a width moves in a round at most
_EFFORT = 1e9  # of decoding, a tenth of what a plan's last decoding may take: losses are rough
_RIDGES = 10.0 ** np.arange(-4, 3)


@dataclass(frozen=True)
class Sampled:
    """A plan that was judged: its units, the number of its panel, and its loss in nats."""

    plan: tuple[int, ...]
    panel: int
    loss: float


@dataclass(frozen=True)
class Surrogate:
    """By how much the loss of a plan is above that of another one, as a sum over groups.

    Attributes:
        centre: The other one, units [groups].
        slope: Nats per unit of log(width / centre), shape [groups].
        bend: Nats per unit of its square, at least 0, shape [groups].
        noise: The deviation of single losses from the sum, in nats.
    """

    centre: np.ndarray
    slope: np.ndarray
    bend: np.ndarray
    noise: float

    def worth(self, axes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns by how much each width on offer lowers the loss, for `decode`."""
        logs = [np.log(axis / middle) for axis, middle in zip(axes, self.centre, strict=True)]
        groups = zip(logs, self.slope, self.bend, strict=True)
        return [-slope * log - bend * log**2 for log, slope, bend in groups]


def best_plan(problem: SearchProblem, start: np.ndarray) -> tuple[np.ndarray, dict[str, object]]:
    """Returns the plan that the surrogate leads to, units [groups], and figures of the way.

    It is judged in the end beside the first one and uniform widths, as drawn plans are; the best of
    the three is returned.

    Args:
        problem: The search, its network the trained supernet.
        start: A plan within the budgets, units [groups].
    """
    saved = SavedRows(problem, "sampled", Sampled)
    panels, centre, noise = problem.cap(problem.recipe.candidates), start, 0.0
    for turn in range(1, _ROUNDS + 1):
        _judge_until(problem, saved, turn * panels, _ROUNDS * panels, centre)
        found = fitted(saved.rows[: turn * panels * _PANEL], centre)
        axes = _axes_near(problem, centre)
        worth = found.worth(axes)
        decoded = decode(problem.limits, axes, worth, least=LOWEST_SHARE, effort=_EFFORT)
        centre, noise = decoded.units, found.noise
    plans = {"start": start, "uniform": problem.uniform_units(problem.limits), "surrogate": centre}
    judged = problem.progress_over(plans.items(), "plans")
    losses = {name: supernet_loss(problem, plan) for name, plan in judged}
    figures = {"losses": losses, "plans_judged": len(saved.rows) + len(plans), "noise": noise}
    return plans[min(losses, key=losses.__getitem__)], figures


def fitted(sampled: Sequence[Sampled], centre: np.ndarray) -> Surrogate:
    """Returns the surrogate of losses, by ridge regression on their differences within panels.

    Args:
        sampled: Plans that were judged.
        centre: The plan that it is about, units [groups].
    """
    logs = np.log(np.array([one.plan for one in sampled]) / centre)
    panels = np.array([one.panel for one in sampled])
    terms = _within_panels(np.concatenate([logs, logs**2], axis=1), panels)
    losses = _within_panels(np.array([[one.loss] for one in sampled]), panels)[:, 0]
    scale = np.sqrt(np.square(terms).mean(axis=0))
    terms /= np.where(scale > 0, scale, 1.0)
    freedom = len(sampled) - len(np.unique(panels))
    ridge, noise = _choose_ridge(terms, losses, freedom)
    used = scale > 0
    while True:
        values = _ridge_solution(terms * used, losses, ridge * freedom)
        bent_down = used & (values < 0)
        bent_down[: len(centre)] = False  # a slope may have either sign
        if not bent_down.any():
            break
        used &= ~bent_down
    slope, bend = np.split(values / np.where(scale > 0, scale, 1.0), 2)
    return Surrogate(centre, slope, bend, noise)


def _judge_until(
    problem: SearchProblem, saved: SavedRows[Sampled], end: int, last: int, centre: np.ndarray
) -> None:
    """Judges the panels up to number `end` of `last`, around a plan, that are not judged yet."""
    size = problem.recipe.search.batch_size * world_size()
    each = problem.cap(math.ceil(_IMAGES / size))  # batches of a panel
    done, judge = len(saved.rows) // _PANEL, PlanJudge(problem)
    seed = step_seed(problem.request.seed, 0, "panels")
    batches = training_batches(
        problem,
        seed,
        (end - done) * each,
        start=done * each,
        augment=False,
        device=problem.precision.device,
    )
    with (
        caught_signals() as signals,
        problem.compute.progress.task("sampled plans", last, done=done, unit="panel") as bar,
    ):
        for panel in range(done, end):
            images = [problem.precision.move(batch) for batch in islice(batches, each)]
            plans = list(_sampled(problem, panel, centre))
            losses = [judge.loss(plan, images) for plan in plans]
            rows = (tuple(plan.tolist()) for plan in plans)
            saved.add(Sampled(*row) for row in zip(rows, [panel] * _PANEL, losses, strict=True))
            signals.heed_together()
            bar.advance(loss=min(losses))


def _sampled(problem: SearchProblem, panel: int, centre: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the plans of a panel, which depend on its number and the centre, units [groups]."""
    generator = torch.Generator().manual_seed(step_seed(problem.request.seed, panel, "panel"))
    for _ in range(_PANEL):
        shifts = torch.randn(len(centre), generator=generator, dtype=torch.float64).numpy()
        yield fit_widths(problem.limits, problem.grid, centre * np.exp(_SPREAD * shifts))


def _axes_near(problem: SearchProblem, centre: np.ndarray) -> list[np.ndarray]:
    """Returns the widths on offer within reach of a plan, and its own, ascending."""
    axes = problem.grid.spread_axes()
    near = (a[np.abs(np.log(a / c)) <= _REACH] for a, c in zip(axes, centre, strict=True))
    return [np.union1d(axis, [own]) for axis, own in zip(near, centre, strict=True)]


def _within_panels(values: np.ndarray, panels: np.ndarray) -> np.ndarray:
    """Returns values [plans, columns] less the mean of their panel."""
    _, places, counts = np.unique(panels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, places, values)
    return values - (sums / counts[:, None])[places]


def _choose_ridge(terms: np.ndarray, losses: np.ndarray, freedom: int) -> tuple[float, float]:
    """Returns the ridge of the least generalised cross-validation, and the deviation it leaves."""
    left, singular, _ = np.linalg.svd(terms, full_matrices=False)
    along = left.T @ losses
    best = (np.inf, 0.0, 0.0)
    for ridge in _RIDGES.tolist():
        kept = singular**2 / (singular**2 + ridge * freedom)
        rest = losses @ losses - (2 * kept - kept**2) @ along**2
        if (free := freedom - kept.sum()) > 0:
            best = min(best, (rest / free**2, ridge, np.sqrt(max(rest, 0.0) / free)))
    return float(best[1]), float(best[2])


def _ridge_solution(terms: np.ndarray, losses: np.ndarray, ridge: float) -> np.ndarray:
    squares = terms.T @ terms + ridge * np.eye(terms.shape[1])
    return np.asarray(np.linalg.solve(squares, terms.T @ losses))
