"""The surrogate of sampled losses: slopes, its plan, searches killed and small ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from search_problems import asked_macs, garments, make_problem, small_network

from dmcp_deploy.data.types import Batch
from dmcp_deploy.search import dmcp, surrogate
from dmcp_deploy.search.judging import PlanJudge
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.sampling import supernet_loss
from dmcp_deploy.search.steps import training_batches
from dmcp_deploy.search.surrogate import Sampled, best_plan, fitted

pytestmark = pytest.mark.usefixtures("fashion_mnist")

SLOPE, BEND = np.array([-0.3, 0.1, 0.0]), np.array([0.2, 0.0, 0.4])
CENTRE = np.array([20, 40, 80])


def sampled_losses(panels: int, noise: float, bend: np.ndarray = BEND) -> list[Sampled]:
    """Losses of the surface above with noise, and with another mean in every panel."""
    generator = np.random.default_rng(0)
    rows = []
    for panel in range(panels):
        of_images = generator.normal()
        for _ in range(5):
            plan = np.round(CENTRE * np.exp(0.3 * generator.normal(size=3))).astype(int)
            logs = np.log(plan / CENTRE)
            loss = of_images + SLOPE @ logs + bend @ logs**2 + noise * generator.normal()
            rows.append(Sampled(tuple(plan.tolist()), panel, float(loss)))
    return rows


def test_slopes_and_bends_are_found_whatever_the_images_of_a_panel_add():
    found = fitted(sampled_losses(panels=40, noise=0.0), CENTRE)
    assert found.slope == pytest.approx(SLOPE, abs=2e-3)
    assert found.bend == pytest.approx(BEND, abs=2e-3)
    (worth,) = surrogate.Surrogate(CENTRE[:1], SLOPE[:1], BEND[:1], 0.0).worth([np.array([20, 30])])
    log = np.log(1.5)
    assert worth == pytest.approx([0.0, 0.3 * log - 0.2 * log**2])


def test_noise_is_told_and_averaged_out():
    found = fitted(sampled_losses(panels=200, noise=0.05), CENTRE)
    assert found.noise == pytest.approx(0.05, rel=0.1)
    assert found.slope == pytest.approx(SLOPE, abs=0.03)


def test_no_parabola_opens_downwards():
    # Such a one would send a width to an end of its reach, however little is known of it there.
    found = fitted(sampled_losses(panels=40, noise=0.0, bend=-BEND), CENTRE)
    assert (found.bend == 0).all()
    assert found.slope == pytest.approx(SLOPE, abs=0.05)


def test_a_group_that_no_plan_changes_gets_no_slope():
    rows = [Sampled((*one.plan, 7), one.panel, one.loss) for one in sampled_losses(20, 0.0)]
    found = fitted(rows, np.array([*CENTRE, 7]))
    assert (found.slope[3], found.bend[3]) == (0, 0)
    assert found.slope[:3] == pytest.approx(SLOPE, abs=5e-3)


def problem_at(folder: Path, **changes: object) -> SearchProblem:
    options = {"share": 0.5, "align": 2, "data": garments(), "max_steps": 3, **changes}
    return make_problem(small_network(), folder, sampling="surrogate", **options)


def made_up(problem: SearchProblem, plan: np.ndarray) -> float:
    """A loss that falls with the width of every second group, and not with the others'."""
    return float(-(np.log(plan / problem.space.full)[::2]).sum())


def judge_by(loss: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts losses of plans in the place of those of images."""
    monkeypatch.setattr(PlanJudge, "loss", lambda judge, plan, images: loss(judge.problem, plan))


def test_the_plan_goes_where_losses_fall_and_meets_the_budget(tmp_path, monkeypatch):
    problem = problem_at(tmp_path, max_steps=30, candidates=30)
    judge_by(made_up, monkeypatch)
    start = problem.uniform_units(problem.limits)
    plan, figures = best_plan(problem, start)
    assert 0.98 <= problem.limits.share(plan) <= 1.0
    assert (plan[::2] >= start[::2]).all()
    assert (plan[1::2] <= start[1::2] + 2).all()  # what the budget leaves fills a step
    assert made_up(problem, plan) < made_up(problem, start) - 0.3
    assert figures["plans_judged"] == 3 * 30 * 5 + 3
    assert figures["losses"]["surrogate"] == made_up(problem, plan)


def test_where_the_surrogate_misleads_the_best_of_the_plans_judged_is_kept(tmp_path, monkeypatch):
    problem = problem_at(tmp_path)
    judge_by(made_up, monkeypatch)
    monkeypatch.setattr(surrogate, "supernet_loss", lambda problem, plan: -made_up(problem, plan))
    start = problem.uniform_units(problem.limits)
    plan, figures = best_plan(problem, start)
    assert (plan == start).all()
    assert figures["losses"]["surrogate"] > figures["losses"]["start"]


def test_a_search_takes_the_better_plan_by_its_images(tmp_path):
    problem = problem_at(tmp_path)
    result = dmcp.search(problem)
    units = np.array([result.widths[name] for name in problem.space.names])
    assert 0.98 <= problem.accounting.macs(units) / asked_macs(problem) <= 1.0
    figures = json.loads(json.dumps(result.figures))
    assert figures["plans_judged"] == 3 * 3 * 5 + 3
    uniform = problem.uniform_units(problem.limits)
    assert figures["losses"]["uniform"] == supernet_loss(problem, uniform)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("at", [0, 1, 15, 22, 44])
def test_a_search_that_was_killed_ends_with_the_same_plan(at, tmp_path, monkeypatch):
    calls, judged = iter(range(at)), PlanJudge.loss

    def killed(*arguments: object) -> float:
        if next(calls, None) is None:
            raise KilledError
        return judged(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PlanJudge, "loss", killed)
        with pytest.raises(KilledError):
            dmcp.search(problem_at(tmp_path / "killed"))
    again = dmcp.search(problem_at(tmp_path / "killed"))
    assert again == dmcp.search(problem_at(tmp_path / "undisturbed"))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_trial_runs_few_plans_on_few_batches(steps, tmp_path, monkeypatch):
    made: list[tuple[int, int]] = []

    def counted(problem: SearchProblem, seed: int, steps: int, **how: object) -> Iterator[Batch]:
        made.append((how["start"], steps))
        return training_batches(problem, seed, steps, **how)

    monkeypatch.setattr(surrogate, "training_batches", counted)
    result = dmcp.search(problem_at(tmp_path, max_steps=steps))
    each = steps  # of 256 images a panel has 16 batches
    assert made == [(turn * steps * each, steps * each) for turn in range(3)]
    assert result.figures["plans_judged"] == 3 * steps * 5 + 3


def test_judging_leaves_the_network_as_it_was(tmp_path):
    problem = problem_at(tmp_path)
    model = problem.network.model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    best_plan(problem, problem.uniform_units(problem.limits))
    assert model.training
    for name, tensor in model.state_dict().items():
        assert (tensor == before[name]).all(), name
