"""Evolution on made-up losses: mutants and crossovers by hand, no plan twice, in two parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from search_problems import asked_macs, chain_network, make_problem, paper_network
from tiny_nets import Residual, traced

from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.search.evolution import (
    Evolution,
    Judged,
    Plan,
    best_of,
    crossed,
    drawn,
    evolve,
    gene_values,
    mutated,
    within_budget,
)
from dmcp_deploy.search.fit import width_grid
from dmcp_deploy.search.space import search_space

VALUES = (np.array([2, 4, 6, 8]), np.array([1, 2, 3]), np.array([5]), np.array([8, 16]))
WIDE = tuple(np.arange(1, 11) for _ in range(8))


def unchanged(units: np.ndarray) -> np.ndarray:
    return units


def rules(**changes: object) -> Evolution:
    return replace(Evolution(WIDE, unchanged, population=10, generations=4, seed=0), **changes)


class Judge:
    """The loss of a plan is its distance from all fours; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Plan] = []

    def __call__(self, plans: Sequence[Plan]) -> list[tuple[float, float]]:
        self.asked += plans
        return [(float(np.abs(np.array(plan) - 4).sum()), 0.5) for plan in plans]


def run(evolution: Evolution, judged: Sequence[Judged] = (), at_once: int = 1) -> list[Judged]:
    rounds = evolve(evolution, Judge(), judged, at_once)
    return [*judged, *(one for found in rounds for one in found)]


def test_chances_pick_values():
    plan = drawn(VALUES, np.array([0.0, 0.34, 0.9, 0.999]))
    assert plan.tolist() == [2, 2, 5, 16]


def test_mutants_are_those_worked_out_by_hand():
    parent = np.array([4, 3, 5, 16])
    change = np.array([0.09, 0.1, 0.0, 0.05])  # the second just stays
    pick = np.array([0.5, 0.0, 0.7, 0.99])
    # Of 2, 6, 8 the middle one; unchanged; there is no other; the only other one.
    assert mutated(VALUES, parent, change, pick).tolist() == [6, 3, 5, 8]
    assert parent.tolist() == [4, 3, 5, 16]
    # A width between the values on offer, as fitting to a budget leaves it, may take any of them.
    between = np.array([5, 3, 5, 16])
    assert mutated(VALUES, between, change, pick).tolist() == [6, 3, 5, 8]
    assert mutated(VALUES, between, change, np.full(4, 0.99)).tolist() == [8, 3, 5, 8]


def test_a_crossover_is_the_one_worked_out_by_hand_and_keeps_ties():
    first, second = np.array([8, 2]), np.array([3, 6])
    assert crossed(first, second, np.array([0.0, 0.49])).tolist() == [8, 2]
    assert crossed(first, second, np.array([0.5, 0.49])).tolist() == [3, 2]
    child = crossed(first, second, np.array([0.49, 0.5]))
    assert child.tolist() == [8, 6]
    # One gene for all that is added up in the residual stream, another inside the branch.
    network = traced(Residual)
    assert [group.name for group in network.prunable] == ["stem", "reduce"]
    other = crossed(first, second, np.array([0.7, 0.2]))  # 3 and 2
    widths = search_space(network).widths(other)
    dense = slice_network(network, widths)
    assert (dense.stem.out_channels, dense.expand.out_channels) == (3, 3)
    assert (dense.inner.in_channels, dense.inner.out_channels) == (3, 3)
    assert (dense.reduce.in_channels, dense.reduce.out_channels) == (3, 2)
    assert dense.expand.in_channels == 2
    assert dense.eval()(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


def test_a_generation_is_half_mutants_of_the_best_and_half_their_crossovers():
    # Of ten plans the two of ones and of nines are the best, and so the only parents.
    bad = [Judged((5,) * 7 + (i,), 0, 3.0, 0.5) for i in range(1, 9)]
    earlier = [*bad, Judged((1,) * 8, 0, 1.0, 0.5), Judged((9,) * 8, 0, 2.0, 0.5)]
    plans = rules().plans(1, earlier)
    assert len(set(plans)) == 10
    for plan in plans[:5]:
        assert 0 < min(sum(gene != own for gene in plan) for own in (1, 9)) <= 4
    for plan in plans[5:]:
        assert set(plan) == {1, 9}
    changed = rules(seed=1).plans(1, earlier)
    assert changed != plans
    assert rules().plans(1, earlier) == plans


def test_one_gene_in_ten_of_a_mutant_changes():
    many = rules(population=2000, values=tuple(np.arange(1, 10_001) for _ in range(8)))
    mutants = np.array(many.plans(1, [Judged((1,) * 8, 0, 1.0, 0.5)])[:1000])
    # Those with no change are drawn again: 0.8 changes in all plans, 1 - 0.9**8 of which remain.
    changes = (mutants != 1).sum(1)
    deviation = changes.std() / len(changes) ** 0.5
    assert changes.mean() == pytest.approx(0.8 / (1 - 0.9**8), abs=4.5 * deviation)


def test_nothing_is_judged_twice_also_where_plans_run_out():
    judge = Judge()
    small = rules(values=(np.array([1, 2]), np.array([3, 4, 5])), generations=6)
    found = [one for some in evolve(small, judge, []) for one in some]
    assert sorted(judge.asked) == [(a, b) for a in (1, 2) for b in (3, 4, 5)]
    assert sorted(one.plan for one in found) == sorted(judge.asked)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 27, 40])
def test_evolution_in_two_parts_is_one(count):
    whole = run(rules())
    assert len(whole) == 40
    judge = Judge()
    rest = [one for some in evolve(rules(), judge, whole[:count]) for one in some]
    assert [*whole[:count], *rest] == whole
    assert judge.asked == [one.plan for one in whole[count:]]


def test_how_many_are_judged_at_once_changes_nothing():
    assert run(rules(), at_once=3) == run(rules())
    assert [len(found) for found in evolve(rules(generations=1), Judge(), [], 4)] == [4, 4, 2]


def test_generations_come_nearer_than_as_many_random_plans():
    evolved = run(rules(population=20, generations=10))
    random = run(rules(population=200, generations=1))
    assert len(evolved) == len(random) == 200
    assert best_of(evolved, 1)[0].loss < best_of(random, 1)[0].loss - 2


def test_of_equal_plans_the_first_judged_is_the_best():
    judged = [Judged((i,), 0, loss, 0.5) for i, loss in enumerate([2.0, 1.0, 1.0])]
    assert [one.plan for one in best_of(judged, 2)] == [(1,), (2,)]


def test_genes_take_the_aligned_widths_of_the_space():
    network = chain_network((20, 6, 32))
    space = search_space(network, 0.1, 0.25)
    # 20: 5, 10, 15, 20. 6: 1 to 6. 32: 8, 16, 24, 32.
    plain = [own.tolist() for own in gene_values(space, width_grid(space, 1))]
    assert plain == [[5, 10, 15, 20], [3, 4, 5, 6], [8, 16, 24, 32]]
    aligned = [own.tolist() for own in gene_values(space, width_grid(space, 8))]
    assert aligned == [[8, 16, 20], [3, 4, 5, 6], [8, 16, 24, 32]]


@pytest.mark.parametrize(
    ("model", "macs"),
    [
        ("mobilenet_v2", 211_000_000),
        pytest.param("resnet50", 1_100_000_000, marks=pytest.mark.slow),
    ],
)
def test_plans_are_brought_into_the_band_and_stay_if_they_are(model, macs, tmp_path):
    problem = make_problem(paper_network(model), tmp_path, budget_macs=macs, align=8)
    values, fit = gene_values(problem.space, problem.grid), within_budget(problem)
    random = np.random.default_rng(0)
    plans = [fit(drawn(values, random.random(len(values)))) for _ in range(20)]
    for plan in plans:
        assert 0.98 <= problem.accounting.macs(plan) / macs <= 1
        assert (plan % problem.grid.step == 0).all()
        assert (fit(plan) == plan).all()
    assert len({tuple(plan.tolist()) for plan in plans}) == 20
    # A child of two of them may leave the band, and is brought back.
    child = crossed(plans[0], plans[1], random.random(len(values)))
    assert 0.98 <= problem.accounting.macs(fit(child)) / macs <= 1


def test_where_no_plan_ends_in_the_band_the_uniform_one_remains(tmp_path):
    # 16 positions: 16 * (3 * 8 + 8 * 16) + 16 * 2, or half of it.
    problem = make_problem(chain_network((16, 16)), tmp_path, align=8, share=0.9)
    uniform = problem.uniform_units(problem.limits)
    assert problem.accounting.macs(uniform) < 0.98 * asked_macs(problem)
    fit = within_budget(problem)
    for wanted in ([8, 8], [8, 16], [16, 8], [16, 16]):
        found = problem.accounting.macs(fit(np.array(wanted)))
        assert problem.accounting.macs(uniform) <= found <= asked_macs(problem)
