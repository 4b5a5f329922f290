"""DMCP on real images: gradients, the band, the same search twice and in two parts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from operator import mul
from pathlib import Path

import numpy as np
import pytest
import torch
from search_problems import asked_macs, garments, make_problem, small_network, some_batch
from torch import Tensor

from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.models import build_network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.rundir.directory import KEPT
from dmcp_deploy.search import dmcp
from dmcp_deploy.search.architecture import Architecture
from dmcp_deploy.search.budget_loss import budget_loss
from dmcp_deploy.search.dmcp import BudgetOnlyTask, DmcpTask
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.training.metrics import read_metrics
from dmcp_deploy.training.weights import read_tensors

pytestmark = pytest.mark.usefixtures("fashion_mnist")


def alpha_gradients(task: DmcpTask, batch: Batch) -> Tensor:
    return torch.autograd.grad(task.task_loss(batch), task.architecture.alphas)[0]


def groups_without_gradient(problem: SearchProblem, task: DmcpTask, batch: Batch) -> list[str]:
    moved = (alpha_gradients(task, batch) != 0) & problem.space.mask
    return [name for name, row in zip(problem.space.names, moved, strict=True) if not row.any()]


def test_the_task_loss_alone_moves_every_group_at_the_first_architecture_step(tmp_path):
    problem = make_problem(small_network(), tmp_path, data=garments())
    task = DmcpTask(problem, steps=8)
    for step in range(4):  # stage 1
        assert "arch_loss" not in task.step(step, some_batch(step=step))
    assert not groups_without_gradient(problem, task, some_batch(step=4))
    assert "arch_loss" in task.step(4, some_batch(step=4))
    assert (task.architecture.alphas.detach()[problem.space.mask] != 0).any()


@pytest.mark.parametrize(
    "model", ["mobilenet_v2", "resnet18", pytest.param("densenet121", marks=pytest.mark.slow)]
)
def test_so_it_does_in_stock_networks(model, tmp_path):
    network = build_network(NetworkSpec(model, 1.0, 10, (3, 64, 64)))
    problem = make_problem(network, tmp_path)
    task = DmcpTask(problem, steps=2)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 64, 64, generator=generator)
    batch = Batch(images, torch.arange(8) % 10)
    assert not groups_without_gradient(problem, task, batch)


def gated_before_depthwise_alone(network: Network) -> Network:
    kept = {name: gate for name, gate in network.gates.items() if "depthwise" not in name}
    assert len(kept) == len(network.gates) - 6
    return replace(network, gates=kept)


def test_a_gate_before_the_depthwise_convolution_alone_would_be_cancelled(tmp_path):
    strengths = []
    for network in (small_network(), gated_before_depthwise_alone(small_network())):
        problem = make_problem(network, tmp_path)
        gradients = alpha_gradients(DmcpTask(problem, steps=2), some_batch())
        hidden = [name.endswith("expand.0") for name in problem.space.names]
        strengths.append(gradients[torch.tensor(hidden)].abs().mean())
    assert strengths[1] < 0.01 * strengths[0]


def test_weights_get_no_gradient_from_the_architecture_step(tmp_path):
    network = small_network()
    task = DmcpTask(make_problem(network, tmp_path), steps=2)
    before = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
    task.task_loss(some_batch()).backward()
    assert all(p.grad is None and p.requires_grad for p in network.model.parameters())
    for name, tensor in network.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def after_steps(kind: type[DmcpTask], folder: Path, batches: Sequence[Batch]) -> DmcpTask:
    """Returns a task after architecture steps on these batches."""
    problem = make_problem(small_network(), folder, share=0.5, architecture_share=1.0)
    task = kind(problem, steps=len(batches))
    for step, batch in enumerate(batches):
        task.step(step, batch)
    return task


def test_no_image_reaches_the_alphas_of_a_budget_only_search(tmp_path):
    some, others = ([some_batch(step=first + step) for step in range(2)] for first in (0, 7))
    blind, blind_too = (
        after_steps(BudgetOnlyTask, tmp_path, batches) for batches in (some, others)
    )
    seeing, seeing_too = (after_steps(DmcpTask, tmp_path, batches) for batches in (some, others))
    mask = blind._problem.space.mask
    assert (blind.architecture.alphas.detach()[mask] > 0).any()
    assert torch.equal(blind.architecture.alphas, blind_too.architecture.alphas)
    assert not torch.equal(seeing.architecture.alphas, seeing_too.architecture.alphas)
    problem = blind._problem
    alone = Architecture(problem.space, problem.limits, "exp", problem.precision.device)
    for rate in (0.5, 0.25):  # a cosine over two steps
        alone.move(problem.recipe.budget_weight * budget_loss(alone.expected_share()), rate)
    assert torch.equal(blind.architecture.alphas, alone.alphas)


def test_a_budget_only_search_trains_the_weights_and_tells_the_loss_all_the_same(tmp_path):
    networks, figures = [], []
    for kind in (DmcpTask, BudgetOnlyTask):
        network = small_network()
        task = kind(make_problem(network, tmp_path, share=0.5, architecture_share=1.0), steps=2)
        told = task.step(0, some_batch())
        figures.append({name: told[name] for name in ("loss", "distill", "arch_loss")})
        networks.append(network.model.state_dict())
    assert figures[0] == figures[1]
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])


def short_search(folder: Path, **changes: object) -> SearchProblem:
    options = {"data": garments(), "share": 0.5, "max_steps": 6, **changes}
    return make_problem(small_network(), folder, **options)


def test_no_image_chooses_the_plan_of_a_budget_only_search(tmp_path):
    problem = short_search(tmp_path / "expected", max_steps=2)
    other = short_search(tmp_path / "markov", max_steps=2)
    other = replace(other, request=replace(other.request, sampling="markov"))
    found = [dmcp.search_budget_only(each) for each in (problem, other)]
    assert found[0].widths == found[1].widths
    assert "plans_judged" not in found[1].figures


def test_a_short_search_takes_the_expected_macs_into_the_band(tmp_path):
    problem = short_search(tmp_path, max_steps=30, architecture_share=1.0, random_networks=0)
    result = dmcp.search(problem)
    assert 0.95 <= result.figures["expected_share"] <= 1.0
    assert 0.98 <= problem.accounting.macs_at(result.widths) / asked_macs(problem) <= 1.0
    assert result.trained
    json.dumps(result.figures)
    # Not uniform scaling: the groups have gone their own ways.
    shares = [result.widths[g.name] / g.size for g in problem.network.prunable]
    assert max(shares) - min(shares) > 0.05


def test_the_metrics_tell_what_every_group_was_expected_to_keep(undisturbed):
    problem, result = undisturbed
    reports = read_metrics(problem.folder / "metrics/search.jsonl")
    told = [
        {name.removeprefix(KEPT): value for name, value in report.items() if KEPT in name}
        for report in reports
    ]
    assert [bool(shares) for shares in told] == ["arch_loss" in report for report in reports]
    assert list(told[-1]) == list(problem.space.names) == result.figures["groups"]
    # The budget takes channels away, and the last report is the state that the plan is read of.
    assert 0 < sum(told[-1].values()) < len(told[-1])
    rows = zip(result.figures["probabilities"], *vars_of(problem.space), strict=True)
    for share, (row, minimum, step, full) in zip(told[-1].values(), rows, strict=True):
        expected = minimum + step * sum(accumulate(row, mul))
        # Probabilities are on record with four decimals, and some twenty are multiplied.
        assert share == pytest.approx(expected / full, abs=1e-3)


def vars_of(space: SearchSpace) -> tuple[list[int], list[int], list[int]]:
    return space.minimum.tolist(), space.step.tolist(), space.full.tolist()


def final_state(problem: SearchProblem) -> Mapping[str, Tensor]:
    """Weights, alphas and momenta as the last checkpoint has them."""
    return read_tensors(problem.folder / "checkpoints" / "search.safetensors")


def assert_equal_states(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[SearchProblem, SearchResult]:
    problem = short_search(tmp_path_factory.mktemp("undisturbed"))
    return problem, dmcp.search(problem)


def test_the_same_seed_gives_the_same_widths_and_weights(undisturbed, tmp_path):
    problem = short_search(tmp_path)
    assert dmcp.search(problem) == undisturbed[1]
    assert_equal_states(final_state(problem), final_state(undisturbed[0]))


def test_another_seed_draws_and_learns_otherwise(undisturbed, tmp_path):
    problem = short_search(tmp_path, seed=1, max_steps=2)
    dmcp.search(problem)
    first, other = (
        read_metrics(p.folder / "metrics/search.jsonl")[0] for p in (undisturbed[0], problem)
    )
    assert first["loss"] != other["loss"]
    assert first["distill"] != other["distill"]


class InterruptedSearchError(Exception):
    pass


@pytest.mark.parametrize("at", [2, 4], ids=["stage 1", "stage 2"])
def test_a_search_in_two_parts_ends_bit_for_bit_like_one(at, undisturbed, tmp_path, monkeypatch):
    class Failing(DmcpTask):
        def step(self, step: int, batch: Batch) -> Mapping[str, float]:
            if step == at:
                raise InterruptedSearchError
            return super().step(step, batch)

    with monkeypatch.context() as patch:
        patch.setattr(dmcp, "DmcpTask", Failing)
        with pytest.raises(InterruptedSearchError):
            dmcp.search(short_search(tmp_path, checkpoint_s=0.0))
    assert len(read_metrics(tmp_path / "metrics/search.jsonl")) == at
    resumed = short_search(tmp_path)
    assert dmcp.search(resumed) == undisturbed[1]
    assert_equal_states(final_state(resumed), final_state(undisturbed[0]))
    steps = [report["step"] for report in read_metrics(tmp_path / "metrics/search.jsonl")]
    assert steps == list(range(6))


def test_without_any_architecture_step_the_plan_is_uniform_and_in_budget(tmp_path):
    problem = short_search(tmp_path, max_steps=1)
    result = dmcp.search(problem)
    assert result.figures["expected_share"] == pytest.approx(2.0, abs=0.001)
    assert 0.98 <= problem.accounting.macs_at(result.widths) / asked_macs(problem) <= 1.0


def narrow_networks(task: DmcpTask, step: int) -> list[np.ndarray]:
    return task._weights.networks(step, partial(task._draw, step))


def test_random_networks_differ_by_group_and_are_markov_draws_in_stage_2(tmp_path):
    problem = make_problem(small_network(), tmp_path, share=0.5)
    task = DmcpTask(problem, steps=1000)
    stage_1 = narrow_networks(task, 0)
    assert [len(units) for units in stage_1] == [11, 11, 11]
    assert (stage_1[0] == problem.space.minimum).all()
    shares = stage_1[1] / problem.space.full
    assert shares.max() - shares.min() > 0.2
    # At alpha = 0 the process keeps everything: so does what is drawn from it.
    stage_2 = narrow_networks(task, 500)
    assert (stage_2[2] == problem.space.full).all()
    assert (stage_2[1] != problem.space.full).any()
    assert all((a == b).all() for a, b in zip(stage_2, narrow_networks(task, 500), strict=True))


def test_networks_are_trained_at_widths_that_a_plan_may_have(tmp_path):
    """The nearest ones to what was drawn: the same draws, but for rounding."""
    aligned, free = (
        DmcpTask(make_problem(small_network(), tmp_path, share=0.5, align=align), steps=1000)
        for align in (8, 1)
    )
    grid = aligned._problem.grid
    assert (grid.step > 1).any()
    for step in (0, 600, 999):
        both = zip(narrow_networks(aligned, step), narrow_networks(free, step), strict=True)
        for units, drawn in both:
            assert (units % grid.step == 0).all()
            assert (units == grid.nearest(drawn)).all()
