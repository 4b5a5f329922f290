"""Plans that are drawn and judged: in budget, the best of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from search_problems import asked_macs, garments, make_problem, small_network
from torch import Tensor

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.types import Batch
from dmcp_deploy.search import dmcp, judging, markov
from dmcp_deploy.search.fit import fit_widths
from dmcp_deploy.search.judging import supernet_loss
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.sampling import best_draw, nearest_draws
from dmcp_deploy.search.steps import training_batches
from dmcp_deploy.training.recipe import RECIPES

pytestmark = pytest.mark.usefixtures("fashion_mnist")


def constant(problem: SearchProblem, p: float) -> Tensor:
    mask = problem.space.mask
    return torch.where(mask, torch.full(mask.shape, p, dtype=torch.float64), 0.0)


@pytest.fixture
def problem(tmp_path) -> SearchProblem:
    return make_problem(
        small_network(), tmp_path, share=0.5, align=4, data=garments(), candidates=3
    )


def test_draws_are_those_nearest_to_the_budget_and_each_once(problem):
    draws = nearest_draws(problem, constant(problem, 0.93))
    distances = [abs(problem.accounting.macs(units) - asked_macs(problem)) for units in draws]
    assert distances == sorted(distances)
    assert distances[0] < 0.01 * asked_macs(problem)
    assert len({units.tobytes() for units in draws}) == len(draws) == 3


def test_the_best_draw_has_the_least_loss_and_meets_the_budget(problem):
    units, reports = best_draw(problem, constant(problem, 0.93))
    assert len(reports) == 3
    for report in reports:
        assert 0.98 * asked_macs(problem) <= report["macs"] <= asked_macs(problem)
    best = min(reports, key=lambda report: report["loss"])
    assert problem.accounting.macs(units) == best["macs"]
    # On record with five decimals.
    assert supernet_loss(problem, units) == pytest.approx(best["loss"], abs=1e-5)


@pytest.mark.parametrize("p", [1.0, 0.0])
def test_draws_that_can_never_meet_the_budget_are_repaired(problem, p):
    # The full network, or the narrowest, over and over: waiting for one in budget has no end.
    units, reports = best_draw(problem, constant(problem, p))
    assert len(reports) == 1
    drawn = problem.accounting.full_macs if p else problem.accounting.macs(problem.space.minimum)
    assert reports[0]["drawn_macs"] == drawn
    assert 0.98 <= problem.accounting.macs(units) / asked_macs(problem) <= 1.0
    assert (units % 4 == 0).all()


def test_a_markov_search_reports_its_candidates_and_meets_the_budget(tmp_path):
    def search(folder: str) -> tuple[SearchProblem, dmcp.SearchResult]:
        own = make_problem(
            small_network(),
            tmp_path / folder,
            share=0.5,
            data=garments(),
            sampling="markov",
            max_steps=3,
            candidates=2,
        )
        return own, dmcp.search(own)

    problem, result = search("a")
    assert len(result.figures["candidates"]) == 2
    units = np.array([result.widths[name] for name in problem.space.names])
    assert 0.98 <= problem.accounting.macs(units) / asked_macs(problem) <= 1.0
    assert search("b")[1] == result


class Noise:
    """Limits that every plan meets but for how its sums are rounded."""

    def share(self, units: np.ndarray) -> float:
        return 1.0 + 1e-13 * float((7 * units).sum() % 11 - 5)


def test_of_equally_near_draws_the_first_ones_are_taken(problem):
    probabilities = constant(problem, 0.93)
    first = nearest_draws(replace(problem, limits=Noise()), probabilities)
    generator = torch.Generator().manual_seed(step_seed(problem.request.seed, 0, "draws"))
    for units in first:
        drawn = markov.sample_steps(probabilities, generator).numpy()
        assert (problem.space.units(drawn) == units).all()


def test_plans_that_become_one_by_alignment_are_judged_once(tmp_path):
    options = {"share": 0.5, "align": 16, "data": garments(), "candidates": 40}
    problem = make_problem(small_network(), tmp_path, recalibration_batches=1, **options)
    probabilities = constant(problem, 0.999)
    drawn = nearest_draws(problem, probabilities)
    fitted = [fit_widths(problem.limits, problem.grid, units) for units in drawn]
    _, reports = best_draw(problem, probabilities)
    assert len(reports) == len({units.tobytes() for units in fitted}) < len(drawn)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_trial_judges_few_plans_by_few_batches(steps, tmp_path, monkeypatch):
    made = []

    def counted(problem: SearchProblem, seed: int, steps: int, **how: object) -> Iterator[Batch]:
        made.append(steps)
        return training_batches(problem, seed, steps, **how)

    monkeypatch.setattr(judging, "training_batches", counted)
    options = {"data": garments(), "sampling": "markov", "max_steps": steps}
    problem = make_problem(small_network(), tmp_path, share=0.5, candidates=32, **options)
    result = dmcp.search(problem)
    plans = result.figures["plans_judged"]
    assert 1 <= plans <= steps
    assert made == [1] * plans


def test_recipes_judge_32_plans():
    assert {recipe.candidates for recipe in RECIPES.values()} == {32}
