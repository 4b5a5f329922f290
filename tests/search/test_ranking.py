"""What the search is for: better plans than random ones, and than the budget alone finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from half_blind import BLIND, SEEING
from search_problems import asked_macs, fresh_network, garments, make_problem, small_network

from dmcp_deploy.data.loader import eval_batches, train_batches
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search.fit import fit_widths, width_grid
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.run import find_method
from dmcp_deploy.search.space import search_space
from dmcp_deploy.training.evaluate import evaluate, recalibrate
from dmcp_deploy.training.recipe import Schedule

RANDOM_PLANS = 20
#: Steps of the weights, and of the widths on offer. With 300 DMCP's supernet is too raw to tell
#: plans apart for sure; what takes AutoSlim long is its turns, which coarse widths halve.
TRIALS = {"dmcp": (400, 0.1), "autoslim": (60, 0.2)}


def validation_loss(problem: SearchProblem, units: np.ndarray) -> float:
    """Returns the loss of a plan on the supernet's weights, batch norms recalibrated."""
    dense = slice_network(problem.network, problem.space.widths(units))
    calibration = train_batches(
        garments(), image_size=32, batch_size=64, seed=99, start_step=0, steps=10, augment=False
    )
    recalibrate(dense, calibration, problem.precision)
    images = eval_batches(garments().val, image_size=32, batch_size=250, limit=2000)
    return evaluate(dense, images, problem.precision).loss


@pytest.mark.slow(seconds=20)
@pytest.mark.usefixtures("fashion_mnist")
def test_the_task_loss_finds_what_the_budget_loss_alone_does_not(tmp_path):
    """Only pictures tell which of two branches sees: behind it more channels are kept."""
    problems, kept = {}, {}
    for method in ("dmcp", "budget-only", "uniform"):
        network = fresh_network(NetworkSpec("half_blind:half_blind", 1.0, 10, (3, 32, 32)))
        problem = problems[method] = make_problem(
            network,
            tmp_path / method,
            share=0.3,
            data=garments(),
            max_steps=200,
            search=Schedule(1, 64, 0.05, 0.1, 0.02, 0.05, 1e-4),
        )
        kept[method] = find_method(method)(problem).widths
    seen, unseen = (
        {method: widths[branch[-1]] for method, widths in kept.items()}
        for branch in (SEEING, BLIND)
    )
    for method in ("budget-only", "uniform"):  # fitting to the budget rounds one of them
        assert abs(seen[method] - unseen[method]) <= 1
    assert seen["dmcp"] >= 1.5 * unseen["dmcp"]
    units = {method: np.array([w[n] for n in problem.space.names]) for method, w in kept.items()}
    loss = {method: validation_loss(problems["dmcp"], plan) for method, plan in units.items()}
    assert loss["dmcp"] < min(loss["budget-only"], loss["uniform"]) - 0.01


AUTOSLIM = pytest.mark.nightly("DMCP's plan is judged every time; each takes most of a minute")


@pytest.mark.slow(seconds=50)
@pytest.mark.usefixtures("fashion_mnist")
@pytest.mark.parametrize("method", ["dmcp", pytest.param("autoslim", marks=AUTOSLIM)])
def test_the_searched_plan_beats_random_plans_of_the_same_macs(method, tmp_path):
    (steps, width_step), network = TRIALS[method], small_network()
    space = search_space(network, offset=width_step)
    problem = make_problem(
        network,
        tmp_path,
        space=space,
        grid=width_grid(space, 1),
        share=0.25,
        data=garments(),
        max_steps=steps,
        held_out_images=256,
        search=Schedule(1, 64, 0.05, 0.1, 0.02, 0.05, 1e-4),
    )
    widths = find_method(method)(problem).widths
    searched = np.array([widths[name] for name in problem.space.names])
    generator = torch.Generator().manual_seed(1000)
    plans = [
        fit_widths(problem.limits, problem.grid, wanted.astype(np.float64))
        for wanted in (problem.space.random_units(generator) for _ in range(RANDOM_PLANS))
    ]
    for plan in (searched, *plans):
        assert 0.98 <= problem.accounting.macs(plan) / asked_macs(problem) <= 1.0
    own = validation_loss(problem, searched)
    wins = sum(own < validation_loss(problem, plan) for plan in plans)
    assert wins >= 15
