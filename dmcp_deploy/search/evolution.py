"""Evolution of channel plans within budgets: generations of mutants and crossovers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.plan import LOWEST_SHARE
from dmcp_deploy.search.fit import WidthGrid, fit_widths
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.saved_rows import SavedRows
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.training.interrupt import caught_signals

#: The units of every prunable group, one gene each.
Plan = tuple[int, ...]

MUTATION_RATE = 0.1  # of every gene of a mutant
_LEAST_PARENTS = 2
_TRIES = 10  # draws per plan that is wanted, after which a generation stays smaller


@dataclass(frozen=True)
class Judged:
    """A plan that was judged: its generation, and its loss and accuracy in [0, 1]."""

    plan: Plan
    generation: int
    loss: float
    top1: float


#: Plans -> (loss, accuracy in [0, 1]) of each.
Judge = Callable[[Sequence[Plan]], Sequence[tuple[float, float]]]


def evolve(
    rules: Evolution, judge: Judge, judged: Sequence[Judged], at_once: int = 1
) -> Iterator[list[Judged]]:
    """Yields the plans of one generation after the other as they are judged, few at a time.

    A generation depends on the seed, its number and those before it alone, so that evolution may
    be stopped after any plan. No plan is judged twice.

    Args:
        rules: How a generation comes about.
        judge: What judges.
        judged: Plans that were judged before, in order.
        at_once: How many plans are judged together.
    """
    done = list(judged)
    for number in range(done[-1].generation if done else 0, rules.generations):
        earlier = [one for one in done if one.generation < number]
        known = {one.plan for one in done}
        waiting = [plan for plan in rules.plans(number, earlier) if plan not in known]
        for first in range(0, len(waiting), at_once):
            plans = waiting[first : first + at_once]
            newest = [Judged(p, number, *f) for p, f in zip(plans, judge(plans), strict=True)]
            done += newest
            yield newest


def run_evolution(
    problem: SearchProblem,
    rules: Evolution,
    judge: Judge,
    *,
    name: str = "evolution",
    starts: Sequence[np.ndarray] = (),
    at_once: int = 1,
) -> list[Judged]:
    """Returns all plans that an evolution judges, going on after those that were judged before.

    They are saved as soon as they are judged.

    Args:
        problem: The search that they belong to.
        rules: How a generation comes about.
        judge: What judges.
        name: Of the checkpoint's file.
        starts: Plans within the budgets that belong to the first generation besides, units
            [groups] each.
        at_once: How many plans are judged together.
    """
    saved = SavedRows(problem, name, Judged)
    total = len(starts) + rules.population * rules.generations
    with (
        caught_signals() as signals,
        problem.compute.progress.task("evolution", total, done=len(saved.rows), unit="plan") as bar,
    ):

        def keep(newest: list[Judged]) -> None:
            saved.add(newest)
            signals.heed_together()
            (best,) = best_of(saved.rows, 1)
            for plan in newest:
                bar.advance(generation=plan.generation, loss=best.loss, top1=best.top1)

        for units in starts[len(saved.rows) :]:
            plan = tuple(units.tolist())
            keep([Judged(plan, 0, *figures) for figures in judge([plan])])
        for newest in evolve(rules, judge, saved.rows, at_once):
            keep(newest)
    return saved.rows


def generations_report(judged: Sequence[Judged]) -> list[Mapping[str, object]]:
    """Returns of each generation its plans, their mean loss, and the best found until then."""
    report: list[Mapping[str, object]] = []
    for number in sorted({one.generation for one in judged}):
        losses = [one.loss for one in judged if one.generation == number]
        (best,) = best_of([one for one in judged if one.generation <= number], 1)
        report.append(
            {
                "generation": number,
                "plans": len(losses),
                "mean_loss": round(sum(losses) / len(losses), 5),
                "best_loss": round(best.loss, 5),
                "best_top1": round(best.top1, 5),
            }
        )
    return report


@dataclass(frozen=True)
class Evolution:
    """How a generation comes about (MetaPruning, algorithm 1).

    Attributes:
        values: The units that each gene may draw, in order.
        fit: Plan -> itself, or a near plan that meets the budget.
        population: Plans in a generation, and the best of all so far that it may descend from
            are a fifth of that.
        generations: Generations in all.
        seed: The seed of all draws.
    """

    values: tuple[np.ndarray, ...]
    fit: Callable[[np.ndarray], np.ndarray]
    population: int
    generations: int
    seed: int

    def plans(self, number: int, earlier: Sequence[Judged]) -> list[Plan]:
        """Returns the plans of a generation, none of which was judged in an earlier one.

        Half of them are mutants of the best, the others crossovers; what they lack, and all of
        the first generation, is drawn at random. There may be fewer where plans run out.
        """
        generator = torch.Generator().manual_seed(step_seed(self.seed, number, "generation"))
        seen, plans = {one.plan for one in earlier}, list[Plan]()
        add = partial(self._add, plans, seen)
        if earlier:
            best = best_of(earlier, max(_LEAST_PARENTS, self.population // 5))
            parents = np.array([one.plan for one in best])
            add(self.population // 2, lambda: self._mutant(parents, generator))
            add(self.population, lambda: self._crossover(parents, generator))
        add(self.population, lambda: drawn(self.values, _chances(len(self.values), generator)))
        return plans

    def _add(
        self, plans: list[Plan], seen: set[Plan], until: int, make: Callable[[], np.ndarray]
    ) -> None:
        for _ in range(_TRIES * max(0, until - len(plans))):
            if len(plans) >= until:
                return
            plan = tuple(self.fit(make()).tolist())
            if plan not in seen:
                seen.add(plan)
                plans.append(plan)

    def _mutant(self, parents: np.ndarray, generator: torch.Generator) -> np.ndarray:
        (parent,) = _pick(parents, 1, generator)
        change, pick = (_chances(len(self.values), generator) for _ in range(2))
        return mutated(self.values, parent, change, pick)

    def _crossover(self, parents: np.ndarray, generator: torch.Generator) -> np.ndarray:
        first, second = _pick(parents, 2, generator)
        return crossed(first, second, _chances(len(self.values), generator))


def drawn(values: Sequence[np.ndarray], chances: np.ndarray) -> np.ndarray:
    """Returns a plan whose genes are drawn by chances in [0, 1), shape [groups]."""
    genes = zip(values, chances.tolist(), strict=True)
    return np.array([v[int(chance * len(v))] for v, chance in genes], dtype=np.int64)


def mutated(
    values: Sequence[np.ndarray], plan: np.ndarray, change: np.ndarray, pick: np.ndarray
) -> np.ndarray:
    """Returns a plan some of whose genes have drawn another of their values.

    Args:
        values: The values of every gene.
        plan: The parent, shape [groups].
        change: Chances in [0, 1), shape [groups]: a gene below `MUTATION_RATE` changes.
        pick: Chances in [0, 1), shape [groups]: which value it takes.
    """
    child = plan.copy()
    for gene in np.flatnonzero(change < MUTATION_RATE).tolist():
        others = values[gene][values[gene] != plan[gene]]
        if len(others):
            child[gene] = others[int(pick[gene] * len(others))]
    return child


def crossed(first: np.ndarray, second: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Returns a plan of the first's genes where chances [groups] are below 0.5, else the second's.

    A gene is a group, so layers that are added to one another get their width from one parent.
    """
    return np.where(chances < 0.5, first, second)


def best_of(judged: Sequence[Judged], count: int) -> list[Judged]:
    """Returns the plans with the lowest losses, the lowest first; of equals those judged first."""
    return sorted(judged, key=lambda one: one.loss)[:count]


def gene_values(space: SearchSpace, grid: WidthGrid) -> tuple[np.ndarray, ...]:
    """Returns the units each gene may take: the widths of the search space, aligned."""
    steps = range(int(space.count.max(initial=0)) + 1)
    rows = [grid.nearest(space.units(np.minimum(step, space.count))) for step in steps]
    return tuple(np.unique(column) for column in np.stack(rows, axis=1))


def within_budget(problem: SearchProblem) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what makes a plan meet the budgets: plans in [0.98, 1.00] of them stay as they are.

    Others are scaled by `fit_widths`. Where that ends lower than 0.98, and lower than the uniform
    plan (on some grids no plan ends in the band), it is that plan.
    """
    limits, uniform = problem.limits, problem.uniform_units(problem.limits)
    least = min(LOWEST_SHARE, limits.share(uniform))

    def fit(units: np.ndarray) -> np.ndarray:
        if not least <= limits.share(units) <= 1.0:
            units = fit_widths(limits, problem.grid, units.astype(np.float64))
        return units if limits.share(units) >= least else uniform

    return fit


def _pick(parents: np.ndarray, count: int, generator: torch.Generator) -> np.ndarray:
    """Returns parents drawn uniformly, with repetition, shape [count, groups]."""
    return np.asarray(parents[np.floor(_chances(count, generator) * len(parents)).astype(int)])


def _chances(count: int, generator: torch.Generator) -> np.ndarray:
    chances: np.ndarray = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
    return chances
