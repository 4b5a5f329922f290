"""MetaPruning on real images: what it judges on, its figures, in two parts as in one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from closeness import assert_same, count_roundings
from search_problems import (
    RECIPE,
    asked_macs,
    changed,
    garments,
    make_problem,
    small_network,
    some_batch,
)
from tiny_nets import TINY_NETS, Dense, Flattened, Residual, Separable, TinyNet, trace_tiny
from torch import Tensor

from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.holdout import hold_out
from dmcp_deploy.data.sources import ImageSource
from dmcp_deploy.data.types import Batch, ImageData
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search import evolution, metapruning
from dmcp_deploy.search.evolution import Plan, best_of
from dmcp_deploy.search.metapruning import PlanJudge, PruningNetTask
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.pruningnet import PruningNet
from dmcp_deploy.search.steps import run_steps
from dmcp_deploy.training.evaluate import evaluate, recalibrate
from dmcp_deploy.training.metrics import read_metrics
from dmcp_deploy.training.recipe import RECIPES
from dmcp_deploy.training.weights import read_tensors

STEPS = 3  # of the weights, and so as many generations at most, of as many plans


def short_search(folder: Path, **changes: object) -> SearchProblem:
    options = {"data": garments(), "share": 0.5, "align": 8, "max_steps": STEPS, **changes}
    return make_problem(small_network(), folder, **options)


def saved(problem: SearchProblem, name: str) -> dict[str, Tensor]:
    return read_tensors(problem.folder / "checkpoints" / f"{name}.safetensors")


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [key for key in one if not torch.equal(one[key], other[key])]


def assert_equal_searches(one: SearchProblem, other: SearchProblem) -> None:
    for name in ("search", "evolution"):
        assert differing(saved(one, name), saved(other, name)) == []
    models = [problem.network.model.state_dict() for problem in (one, other)]
    assert differing(*models) == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, fashion_mnist) -> tuple[SearchProblem, SearchResult]:
    problem = short_search(tmp_path_factory.mktemp("undisturbed"))
    return problem, metapruning.search(problem)


def test_a_search_tells_of_its_generations(undisturbed):
    problem, result = undisturbed
    figures = json.loads(json.dumps(result.figures))
    assert result.trained
    assert figures["plans_judged"] == STEPS * STEPS
    assert figures["held_out_images"] == problem.recipe.search.batch_size
    rows = figures["generations"]
    assert [(row["generation"], row["plans"]) for row in rows] == [(i, STEPS) for i in range(STEPS)]
    best = [row["best_loss"] for row in rows]
    assert best == sorted(best, reverse=True)
    # On record with five decimals.
    assert rows[-1]["best_loss"] == pytest.approx(figures["loss"], abs=1e-5)
    assert rows[0]["best_loss"] < rows[0]["mean_loss"]
    assert 0.98 <= problem.accounting.macs_at(result.widths) / asked_macs(problem) <= 1.0


def test_all_plans_judged_are_in_the_band_and_different(undisturbed):
    problem, result = undisturbed
    found = saved(problem, "evolution")
    plans = [tuple(plan) for plan in found["plan"].tolist()]
    assert len(set(plans)) == len(plans) == STEPS * STEPS
    for plan in plans:
        assert 0.98 <= problem.accounting.macs(np.array(plan)) / asked_macs(problem) <= 1.0
    best = plans[int(found["loss"].argmin())]
    assert problem.space.widths(np.array(best)) == result.widths


def test_the_network_is_left_with_the_weights_of_its_plan(undisturbed):
    # Sliced, recalibrated and evaluated again, it is as good as evolution has found the plan.
    problem, result = undisturbed
    rest, held = hold_out(problem.data, problem.recipe.held_out_images, problem.request.seed)
    other = replace(short_search(problem.folder), data=rest)
    judge = PlanJudge(other, PruningNetTask(other, STEPS).net, held)
    dense = slice_network(problem.network, result.widths)
    recalibrate(dense, judge._recalibration, problem.precision)
    accuracy = evaluate(dense, judge._held, problem.precision)
    assert accuracy.images == result.figures["held_out_images"]
    assert_same(accuracy.loss, result.figures["loss"], roundings=count_roundings(dense))
    assert accuracy.top1 == result.figures["top1"]


class InterruptedSearchError(Exception):
    pass


def fail(*_: object, **__: object) -> NoReturn:
    raise InterruptedSearchError


@pytest.mark.parametrize("at", [0, 4])
def test_evolution_in_two_parts_ends_bit_for_bit_like_one(at, undisturbed, tmp_path, monkeypatch):
    judged = []

    class Failing(PlanJudge):
        def __call__(self, plans: Sequence[Plan]) -> list[tuple[float, float]]:
            if len(judged) == at:
                raise InterruptedSearchError
            judged.extend(plans)
            return super().__call__(plans)

    with monkeypatch.context() as patch:
        patch.setattr(metapruning, "PlanJudge", Failing)
        with pytest.raises(InterruptedSearchError):
            metapruning.search(short_search(tmp_path))
    resumed = short_search(tmp_path)
    monkeypatch.setattr(PruningNetTask, "step", fail)
    assert metapruning.search(resumed) == undisturbed[1]
    assert_equal_searches(resumed, undisturbed[0])


def test_a_search_stopped_in_training_ends_bit_for_bit_like_one(undisturbed, tmp_path, monkeypatch):
    step = PruningNetTask.step
    with monkeypatch.context() as patch:
        patch.setattr(
            PruningNetTask,
            "step",
            lambda own, at, *rest: (fail if at == 2 else step)(own, at, *rest),
        )
        with pytest.raises(InterruptedSearchError):
            metapruning.search(short_search(tmp_path, checkpoint_s=0.0))
    assert len(read_metrics(tmp_path / "metrics/search.jsonl")) == 2
    resumed = short_search(tmp_path)
    assert metapruning.search(resumed) == undisturbed[1]
    assert_equal_searches(resumed, undisturbed[0])


def test_a_search_that_is_done_judges_nothing_again(undisturbed, monkeypatch):
    monkeypatch.setattr(PlanJudge, "__call__", fail)
    again = short_search(undisturbed[0].folder)
    assert metapruning.search(again) == undisturbed[1]
    assert_equal_searches(again, undisturbed[0])


@pytest.mark.parametrize("field", ["population", "generations"])
def test_a_recipe_without_plans_is_refused(field):
    paper = RECIPES["imagenet-resnet"]
    assert (paper.population, paper.generations) == (50, 20)
    with pytest.raises(DmcpError, match=rf"'{field}' is 0 and must be at least 1"):
        replace(RECIPE, **{field: 0})


@pytest.mark.usefixtures("fashion_mnist")
def test_every_step_trains_at_widths_of_its_own(tmp_path):
    task = PruningNetTask(short_search(tmp_path), STEPS)
    units = np.array([task.units_at(step) for step in range(40)])
    assert len(np.unique(units, axis=0)) == 40
    for gene, values in enumerate(task._values):
        assert set(units[:, gene]) <= set(values.tolist())
        assert len(set(units[:, gene])) >= min(2, len(values))
    assert (task.units_at(7) == units[7]).all()
    # The step itself has these widths: what it leaves out has no gradient.
    step = int(units[:, 0].argmin())
    task.step(step, some_batch())
    gradient = task.net.supernet.model.stem[0].weight.grad
    used = gradient.flatten(1).any(1)
    assert used.tolist() == [unit < units[step, 0] for unit in range(16)]


class Untouchable(ImageSource):
    """Validation images that nothing may look at."""

    picture = views = hold = _make_views = fail


@pytest.mark.usefixtures("fashion_mnist")
def test_no_validation_image_is_looked_at(tmp_path):
    data = replace(garments(), val=Untouchable(garments().val.labels, 1, "squash"))
    metapruning.search(short_search(tmp_path, data=data, max_steps=1))


def judge_of(problem: SearchProblem, **changes: object) -> PlanJudge:
    rest, held = hold_out(problem.data, problem.recipe.held_out_images, problem.request.seed)
    own = changed(problem, data=rest, **changes)
    net = PruningNet(problem.network, problem.space, pretrained=False, seed=0)
    return PlanJudge(own, net, held)


@pytest.mark.usefixtures("fashion_mnist")
def test_a_full_search_looks_at_all_images_held_out(tmp_path):
    problem = short_search(tmp_path)
    for max_steps, images, batches in ((None, 1024, 4), (639, 1008, 4), (25, 32, 4), (2, 16, 2)):
        judge = judge_of(problem, max_steps=max_steps)
        assert judge.images == sum(len(batch.labels) for batch in judge._held) == images
        assert len(judge._recalibration) == batches


def test_processes_share_the_plans_and_get_the_same_answers(undisturbed, monkeypatch):
    problem = undisturbed[0]
    judge = judge_of(short_search(problem.folder))
    plans = [tuple(plan) for plan in saved(problem, "evolution")["plan"].tolist()[:3]]
    alone = judge(plans)
    shares: list[Tensor] = []
    monkeypatch.setattr(metapruning, "world_size", lambda: 2)
    for number in range(2):
        monkeypatch.setattr(metapruning, "rank", lambda number=number: number)
        monkeypatch.setattr(metapruning, "add_up", lambda own: shares.append(own) or own)
        judge(plans)
    assert [int((share != 0).any(1).sum()) for share in shares] == [2, 1]
    assert [tuple(row) for row in sum(shares).tolist()] == alone
    assert len(set(alone)) == 3


@pytest.fixture(scope="module")
def pictures(tiny_folder) -> ImageData:
    return open_data(f"folder:{tiny_folder}")


def tiny_search(net: type[TinyNet], folder: Path, data: ImageData) -> SearchProblem:
    options = {"data": data, "share": 0.5, "max_steps": 2, "train_size": 16}
    return make_problem(trace_tiny(net), folder, **options)


@pytest.mark.parametrize("net", [Residual, Separable, Dense])
def test_tiny_networks_are_searched_and_computed_by_the_weights_generated(net, pictures, tmp_path):
    problem = tiny_search(net, tmp_path, pictures)
    result = metapruning.search(problem)
    assert 0.9 <= problem.accounting.macs_at(result.widths) / asked_macs(problem) <= 1.0
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    network = problem.network
    network.model.eval()
    with torch.no_grad():
        narrow = Supernet(network)(images, result.widths)
        dense = slice_network(network, result.widths)
        assert_same(dense(images), narrow, roundings=count_roundings(dense))


@pytest.mark.slow
@pytest.mark.parametrize("net", [net for net in TINY_NETS if net is not Flattened])
def test_every_tiny_network_is_searched(net, pictures, tmp_path):
    problem = tiny_search(net, tmp_path, pictures)
    result = metapruning.search(problem)
    uniform = problem.accounting.macs(problem.uniform_units(problem.limits))
    least = min(0.98 * asked_macs(problem), uniform)
    assert least <= problem.accounting.macs_at(result.widths) <= asked_macs(problem)


NIGHTLY = pytest.mark.nightly("ten seconds each; test_methods.py searches MobileNetV2 every time")


@pytest.mark.slow
@pytest.mark.usefixtures("fashion_mnist")
@pytest.mark.parametrize(
    "model",
    [
        *("squeezenet1_1", "mobilenet_v3_small"),
        *(pytest.param(model, marks=NIGHTLY) for model in ("mobilenet_v2", "resnet18")),
    ],
)
def test_stock_networks_are_searched(model, tmp_path):
    size = 64 if model == "squeezenet1_1" else 32
    network = build_network(NetworkSpec(model, 1.0, 10, (3, size, size)))
    options = {"share": 0.5, "align": 8, "data": garments(), "max_steps": 1}
    problem = make_problem(network, tmp_path, recipe=RECIPE, **options)
    result = metapruning.search(problem)
    for group in network.prunable:
        width = result.widths[group.name]
        assert width % group.unit == 0
        assert group.size <= 8 or width % 8 == 0
    assert 0.98 <= problem.accounting.macs_at(result.widths) / asked_macs(problem) <= 1.0


@pytest.mark.slow
@pytest.mark.usefixtures("fashion_mnist")
def test_the_best_plan_beats_random_ones_on_images_it_was_not_chosen_by(tmp_path):
    problem = short_search(
        tmp_path, share=0.3, max_steps=None, population=12, generations=4, recalibration_batches=4
    )
    rest, held = hold_out(problem.data, 320, problem.request.seed)
    trained = replace(problem, data=rest)
    task = PruningNetTask(trained, 150)
    run_steps(trained, task, 150)
    judge = PlanJudge(trained, task.net, held)
    judged = evolution.run_evolution(problem, metapruning.evolution_rules(problem), judge)
    (best,) = best_of(judged, 1)
    rows = evolution.generations_report(judged)
    assert best.loss < rows[0]["mean_loss"] - 0.03
    random = metapruning.evolution_rules(changed(problem, seed=77)).plans(0, [])
    fresh = changed(judge._problem, seed=5)
    unseen: list[Batch] = PlanJudge(fresh, task.net, problem.data.val)._held[:20]
    judge._held = unseen
    assert judge([best.plan])[0][0] < np.mean([loss for loss, _ in judge(random)])
