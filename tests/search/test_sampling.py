"""Markov sampling: bounded, in budget, and the best of its candidates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from search_problems import asked_macs, garments, make_problem, small_network
from torch import Tensor

from dmcp_deploy.search import dmcp
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.sampling import best_draw, nearest_draws, supernet_loss

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


def test_judging_leaves_the_network_as_it_was(problem):
    before = {name: t.clone() for name, t in problem.network.model.state_dict().items()}
    problem.network.model.train()
    supernet_loss(problem, problem.grid.nearest(problem.space.full * 0.5))
    assert problem.network.model.training
    for name, tensor in problem.network.model.state_dict().items():
        assert torch.equal(tensor, before[name])


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
