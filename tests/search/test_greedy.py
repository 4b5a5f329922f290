"""Greedy slimming on made-up losses: its order, and the budgets on its way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from search_problems import chain_network, macs_limits, make_problem, paper_network

from dmcp_deploy.search.fit import WidthGrid, width_grid
from dmcp_deploy.search.greedy import (
    Ladder,
    Turn,
    ladder,
    plan_within,
    plans_on_the_way,
    slim_down,
)
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.space import search_space

GRID = WidthGrid(low=np.array([1, 2, 2]), high=np.array([4, 6, 3]), step=np.array([1, 2, 1]))
STEPS = Ladder(GRID, GRID.step)

#: What each group's width adds to the loss, worked out into the turns below by hand.
HARM = ({4: 0, 3: 1, 2: 3, 1: 7}, {6: 0, 4: 2, 2: 4}, {3: 0, 2: 2})


def harm(plan: np.ndarray) -> float:
    return float(sum(table[int(width)] for table, width in zip(HARM, plan, strict=True)))


def harms(plans: Sequence[np.ndarray]) -> list[float]:
    return [harm(plan) for plan in plans]


def at_most(units: int) -> Callable[[np.ndarray], bool]:
    return lambda plan: int(plan.sum()) <= units


def test_each_turn_takes_the_least_harmful_step_and_of_equal_ones_the_first():
    turns = list(slim_down(STEPS, GRID.high, harms, at_most(0)))
    assert turns == [
        Turn(0, 3, 1.0),  # the others would add 2
        Turn(0, 2, 3.0),  # as would both others: the first of the three
        Turn(1, 4, 5.0),  # as would the third
        Turn(1, 2, 7.0),  # as would the third
        Turn(2, 2, 9.0),  # the only other one would add 4
        Turn(0, 1, 13.0),
    ]


def test_slimming_ends_at_the_budget():
    # 13 units, then 12, 11, 9, 7, 6, 5.
    assert len(list(slim_down(STEPS, GRID.high, harms, at_most(13)))) == 0
    assert len(list(slim_down(STEPS, GRID.high, harms, at_most(9)))) == 3
    assert len(list(slim_down(STEPS, GRID.high, harms, at_most(8)))) == 4


def test_slimming_goes_on_from_any_plan_on_its_way_as_if_it_had_not_stopped():
    whole = list(slim_down(STEPS, GRID.high, harms, at_most(0)))
    for stop in range(len(whole)):
        reached = plans_on_the_way(GRID.high, whole[:stop])[-1]
        assert list(slim_down(STEPS, reached, harms, at_most(0))) == whole[stop:]


def test_every_group_is_tried_once_a_turn():
    tried = []

    def losses(plans: Sequence[np.ndarray]) -> list[float]:
        tried.append([plan.tolist() for plan in plans])
        return harms(plans)

    list(slim_down(STEPS, np.array([2, 6, 2]), losses, at_most(9)))
    assert tried == [[[1, 6, 2], [2, 4, 2]]]


def test_the_last_step_of_a_group_may_be_shorter():
    grid = WidthGrid(low=np.array([3]), high=np.array([8]), step=np.array([1]))
    turns = slim_down(
        Ladder(grid, np.array([2])), grid.high, lambda plans: [0.0] * len(plans), at_most(0)
    )
    assert [turn.units for turn in turns] == [6, 4, 3]


def test_the_first_step_from_a_full_width_that_is_no_multiple_ends_on_one():
    grid = WidthGrid(low=np.array([8]), high=np.array([50]), step=np.array([8]))
    for step, widths in ((8, [48, 40, 32, 24, 16, 8]), (16, [40, 24, 8])):
        ladder = Ladder(grid, np.array([step]))
        turns = slim_down(ladder, grid.high, lambda plans: [0.0] * len(plans), at_most(0))
        assert [turn.units for turn in turns] == widths


@pytest.mark.parametrize(
    ("align", "steps"),
    [(1, [1, 9, 12, 16]), (8, [8, 8, 16, 16]), (32, [1, 32, 32, 32])],
)
def test_steps_are_the_multiples_of_the_grid_nearest_to_those_of_the_space(align, steps):
    # A tenth of the channels: 1.6, 9.6, 12.8, 16 become 1, 9, 12, 16 channels. A group of 16
    # cannot be aligned to 32 and takes any width.
    network = chain_network((16, 96, 128, 160))
    space = search_space(network)
    grid = width_grid(space, align)
    found = ladder(space, grid)
    assert found.step.tolist() == steps
    assert found.grid is grid


def made_up_losses(problem: SearchProblem, seed: int) -> np.ndarray:
    """How much each group's loss grows with the share of channels it lacks."""
    return np.random.default_rng(seed).uniform(0.1, 10.0, len(problem.space.names))


def pass_to(problem: SearchProblem, budget_macs: int, seed: int = 0) -> list[np.ndarray]:
    steps, weights = ladder(problem.space, problem.grid), made_up_losses(problem, seed)

    def losses(plans: Sequence[np.ndarray]) -> list[float]:
        return [float((weights * (1 - plan / problem.grid.high) ** 2).sum()) for plan in plans]

    turns = slim_down(
        steps, problem.grid.high, losses, macs_limits(problem.network, budget_macs).is_met
    )
    return plans_on_the_way(problem.grid.high, turns)


SHARES = (0.7, 0.5, 0.25, 0.1)


@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize("model", ["mobilenet_v2", "resnet18"])
def test_one_pass_yields_the_plans_of_single_passes_all_in_the_band(model, align, tmp_path):
    problem = make_problem(paper_network(model), tmp_path, align=align)
    budgets = [int(share * problem.accounting.full_macs) for share in SHARES]
    way = pass_to(problem, min(budgets))
    for budget_macs in budgets:
        units = plan_within(macs_limits(problem.network, budget_macs), problem.grid, way)
        single = pass_to(problem, budget_macs)
        assert (
            units == plan_within(macs_limits(problem.network, budget_macs), problem.grid, single)
        ).all()
        assert 0.98 <= problem.accounting.macs(units) / budget_macs <= 1.0
        assert ((units >= problem.grid.low) & (units <= problem.grid.high)).all()
        assert ((units % problem.grid.step == 0) | (units == problem.grid.high)).all()
    # Groups whose channels matter less have gone further.
    shares, weights = units / problem.space.full, made_up_losses(problem, 0)
    assert shares[weights < 2].mean() < shares[weights > 8].mean()


def test_a_plan_on_the_way_that_lies_in_the_band_is_taken_as_it_is(tmp_path):
    problem = make_problem(paper_network("mobilenet_v2"), tmp_path)
    way = pass_to(problem, problem.accounting.full_macs // 2)
    for plan in way[1::10]:
        budget_macs = int(problem.accounting.macs(plan) * 1.01)
        first = next(p for p in way if problem.accounting.macs(p) <= budget_macs)
        assert (
            plan_within(macs_limits(problem.network, budget_macs), problem.grid, way) == first
        ).all()


def test_a_step_too_far_is_shortened(tmp_path):
    problem = make_problem(chain_network((40, 40)), tmp_path)
    wide, slim = np.array([40, 40]), np.array([30, 40])
    budget_macs = problem.accounting.macs(np.array([37, 40])) + 1
    assert problem.accounting.macs(slim) < 0.98 * budget_macs
    found = plan_within(macs_limits(problem.network, budget_macs), problem.grid, [wide, slim])
    assert found.tolist() == [37, 40]


def test_a_pass_that_stopped_early_is_scaled_down_to_the_budget(tmp_path):
    problem = make_problem(paper_network("mobilenet_v2"), tmp_path, align=8)
    budget_macs = problem.accounting.full_macs // 4
    way = pass_to(problem, budget_macs)[:4]
    units = plan_within(macs_limits(problem.network, budget_macs), problem.grid, way)
    assert 0.98 <= problem.accounting.macs(units) / budget_macs <= 1.0
