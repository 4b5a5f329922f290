"""AMC: its walk by hand, what it leaves behind, and that it can be stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_same, count_roundings
from search_problems import (
    asked_macs,
    chain_network,
    changed,
    garments,
    make_problem,
    noise_data,
    small_network,
)
from tiny_nets import Dense, Grouped, Residual, Separable, Shuffle, TinyNet, trace_tiny
from torch import Tensor, nn

from dmcp_deploy.data.holdout import hold_out
from dmcp_deploy.data.loader import eval_batches
from dmcp_deploy.data.types import Batch
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.reconstruction import Reconstruction
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search.amc import method as amc
from dmcp_deploy.search.amc.episodes import Episodes, Exploration
from dmcp_deploy.search.amc.space import Walk, make_walk, tightest
from dmcp_deploy.search.fit import fit_widths
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.run import search_plan
from dmcp_deploy.training.evaluate import evaluate
from dmcp_deploy.training.metrics import read_metrics
from dmcp_deploy.training.recipe import RECIPES, Schedule
from dmcp_deploy.training.weights import read_tensors

FULL_MACS = 16 * (3 * 10 + 10 * 10 + 10 * 10) + 10 * 2


def chain_walk(folder: Path, budget_macs: int) -> Walk:
    """Three groups of 10 channels: 1x1 convolutions on 4x4 positions, then 2 classes."""
    walk = make_walk(make_problem(chain_network((10, 10, 10)), folder, budget_macs=budget_macs))
    assert tightest(walk.limits, walk.full).at(walk.full) == FULL_MACS == 3700
    return walk


# The walk by hand.


def test_an_action_is_bounded_by_what_the_groups_to_come_need_at_least(tmp_path):
    walk = chain_walk(tmp_path, 600)
    assert walk.order.tolist() == [0, 1, 2]
    assert walk.grid.low.tolist() == [2, 2, 2]  # a fifth
    units = np.array([10, 10, 10])
    # 16 (3 c + 2 c + 2 * 2) + 2 * 2 <= 600 up to c = 6.65.
    assert walk.bounds(units, 0) == (2, 6)
    assert walk.realised(0.9, units, 0) == 6
    assert walk.realised(0.44, units, 0) == 4
    assert walk.realised(0.01, units, 0) == 2
    units[0] = 6  # 16 (3 * 6 + 6 c + 2 c) + 2 * 2 <= 600 up to c = 2.4
    assert walk.bounds(units, 1) == (2, 2)
    units[1] = 2  # 16 (3 * 6 + 6 * 2 + 2 c) + 2 c <= 600 up to c = 3.5
    assert walk.bounds(units, 2) == (2, 3)
    units[:2] = 3, 10  # had the first group taken 3: 16 (3 * 3 + 3 c + 2 c) + 4 <= 600
    assert walk.bounds(units, 1) == (2, 5)


def test_a_state_says_what_is_saved_what_can_be_and_what_was_done_last(tmp_path):
    walk = chain_walk(tmp_path, 600)
    units = np.array([6, 10, 10])
    first, second, third = walk.trajectory(np.array([6, 2, 3]))[0]
    # place, linear reader, channels, outputs of the readers, stride, kernel, positions, MACs.
    group_macs = np.array([16 * (30 + 100), 16 * 200, 16 * 100 + 20])
    scaled = (group_macs - 1620) / (3200 - 1620)
    assert first[:8] == pytest.approx([0.0, 0, 0, 1, 0, 0, 1, scaled[0]])
    assert second[:8] == pytest.approx([0.5, 0, 0, 1, 0, 0, 1, scaled[1]])
    assert third[:8] == pytest.approx([1.0, 1, 0, 0, 0, 0, 0, scaled[2]])
    least = 16 * (3 * 2 + 2 * 2 + 2 * 2) + 2 * 2
    assert first[8:] == pytest.approx([0.0, (3700 - least) / 3700, 1.0])
    most, least = 16 * (18 + 60 + 100) + 20, 16 * (18 + 12 + 4) + 4
    assert second[8:] == pytest.approx([(3700 - most) / 3700, (most - least) / 3700, 0.6])
    assert walk.state(units, 1).tolist() == second.tolist()
    assert third[10] == pytest.approx(0.2)
    assert walk.features == 11 == len(first)


def test_the_lowest_ratio_gives_way_to_budgets_it_would_leave_no_choice(tmp_path):
    least = 16 * (6 + 4 + 4) + 4  # at a fifth everywhere
    assert chain_walk(tmp_path, 2 * least).grid.low.tolist() == [2, 2, 2]
    assert chain_walk(tmp_path, 2 * least - 1).grid.low.tolist() == [1, 1, 1]


def test_groups_come_in_the_order_in_which_they_are_first_read(tmp_path):
    class Crossed(TinyNet):
        def __init__(self) -> None:
            super().__init__(5)
            self.early, self.late = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
            self.reads_late, self.reads_early = nn.Conv2d(6, 5, 1), nn.Conv2d(4, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            early, late = self.early(x), self.late(x)
            return self.classify(self.reads_late(late) + self.reads_early(early))

    network = trace_network(Crossed(), NetworkSpec("crossed", 1.0, 5, (3, 8, 8)))
    walk = make_walk(make_problem(network, tmp_path, share=0.5))
    names = [network.prunable[group].name for group in walk.order]
    assert [group.name for group in network.prunable] == ["early", "late", "reads_late"]
    assert names == ["late", "early", "reads_late"]


@pytest.mark.parametrize(
    "net", [Residual, Dense, Separable, Grouped, Shuffle], ids=lambda net: net.__name__
)
def test_bounds_are_exact_for_tied_groups_and_every_walk_ends_in_budget(net, tmp_path):
    problem = make_problem(trace_tiny(net), tmp_path, share=0.5)
    walk, draw = make_walk(problem), np.random.default_rng(0)
    for _ in range(20):
        units = walk.full.copy()
        for place, group in enumerate(walk.order):
            low, most = walk.bounds(units, place)
            rest = walk._others(units, place, walk.grid.low)
            rest[group] = most
            assert walk.limits.is_met(rest)
            rest[group] = most + 1
            assert most == walk.full[group] or not walk.limits.is_met(rest)
            units[group] = walk.realised(draw.random(), units, place)
            assert low <= units[group] <= most
        assert walk.limits.is_met(units)
        fitted = walk.fitted(units)
        assert walk.limits.share(units) <= walk.limits.share(fitted) <= 1.0
        assert (fitted >= walk.grid.low).all()
        assert (walk.fitted(fitted) == fitted).all()


# The reward.


def test_with_many_classes_the_best_five_count(tmp_path):
    for classes, counted in ((100, 5), (10, 1)):
        spec = NetworkSpec("small_mobilenet:small_mobilenet", 1.0, classes, (3, 32, 32))
        network = build_network(spec)
        problem = make_problem(network, tmp_path, share=0.5)
        judge = amc.PlanJudge(problem, Reconstruction(network))
        images = torch.randn(60, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            order = network.model.eval()(images).argsort(dim=1, descending=True)
        for place in (0, counted - 1, counted):
            reward = judge(problem.space.full, Batch(images, order[:, place]))
            # One of the sixty may be a tie.
            assert reward == pytest.approx(float(place < counted), abs=0.02)


# Whole searches.


def short_search(folder: Path, **changes: object) -> SearchProblem:
    options = {"data": garments(), "share": 0.5, "align": 8, "max_steps": 5, **changes}
    return make_problem(small_network(), folder, **options)


@pytest.fixture(scope="module")
def undisturbed(fashion_mnist, tmp_path_factory) -> tuple[SearchProblem, SearchResult]:
    problem = short_search(tmp_path_factory.mktemp("undisturbed"))
    return problem, amc.search(problem)


def test_the_slice_of_what_is_left_does_what_the_search_has_seen(undisturbed):
    problem, result = undisturbed
    figures = result.figures
    assert result.trained
    assert figures["episodes"] == figures["plans_judged"] == len(figures["rewards"]) == 5
    # On record with five decimals.
    assert figures["best_reward"] == pytest.approx(max(figures["rewards"]), abs=1e-5)
    assert figures["held_out_images"] == 16
    assert figures["reconstruction_samples"] == 16 * 10
    _, held = hold_out(problem.data, problem.recipe.held_out_images, problem.request.seed)
    batch = amc._held_batch(problem, held)
    dense = slice_network(problem.network, result.widths).eval()
    with torch.no_grad():
        logits = dense(batch.images)
        whole = problem.network.model.eval()(batch.images)
    right = float((logits.argmax(1) == batch.labels).float().mean())
    assert right == pytest.approx(figures["best_reward"])
    # What was dropped is silent: the full network computes the same.
    assert_same(logits, whole, roundings=count_roundings(problem.network.model))


def test_given_weights_are_not_trained_before(fashion_mnist, tmp_path):
    problem = short_search(tmp_path, pretrained=True, max_steps=2)
    before = {name: t.clone() for name, t in problem.network.model.named_buffers()}
    amc.search(problem)
    assert [file.name for file in (tmp_path / "metrics").iterdir()] == ["episodes.jsonl"]
    after = dict(problem.network.model.named_buffers())
    assert [name for name in before if not torch.equal(after[name], before[name])] == []


class InterruptedSearchError(Exception):
    pass


@pytest.mark.parametrize("at", [0, 3])
def test_a_search_in_two_parts_ends_bit_for_bit_like_one(at, undisturbed, tmp_path, monkeypatch):
    step = Episodes.step

    def failing(own: Episodes, number: int, batch: Batch) -> Mapping[str, float]:
        if number == at:
            raise InterruptedSearchError
        return step(own, number, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Episodes, "step", failing)
        with pytest.raises(InterruptedSearchError):
            amc.search(short_search(tmp_path, checkpoint_s=0.0))
    assert len(read_metrics(tmp_path / "metrics/episodes.jsonl")) == at
    resumed = short_search(tmp_path)
    assert amc.search(resumed) == undisturbed[1]
    one, other = (
        read_tensors(problem.folder / "checkpoints/episodes.safetensors")
        for problem in (resumed, undisturbed[0])
    )
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    states = [p.network.model.state_dict() for p in (resumed, undisturbed[0])]
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []


def test_a_trial_has_a_warm_up_too(tmp_path):
    problem = make_problem(small_network(), tmp_path)
    assert amc.plan_exploration(problem) == Exploration(100, 25)
    for most, warmup in ((50, 12), (10, 2), (3, 1), (1, 1)):
        assert amc.plan_exploration(changed(problem, max_steps=most)) == Exploration(most, warmup)


def test_recipes_have_the_papers_numbers_or_ones_that_make_sense():
    for name in ("imagenet-mobilenet", "imagenet-resnet"):
        recipe = RECIPES[name]
        assert (recipe.episodes, recipe.warmup_episodes) == (800, 100)
        assert (recipe.held_out_images, recipe.reconstruction_images) == (3000, 3000)
    with pytest.raises(DmcpError, match="'warmup_episodes' is 25 and must be at least 1 and at mo"):
        replace(RECIPES["small"], episodes=10)
    for field in ("episodes", "warmup_episodes", "held_out_images", "reconstruction_images"):
        with pytest.raises(DmcpError, match=f"'{field}' is 0"):
            replace(RECIPES["small"], **{field: 0})


NIGHTLY = pytest.mark.nightly("ten seconds for concatenations, which a tiny network has as well")


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        *("mobilenet_v3_small", "regnet_y_400mf", "shufflenet_v2_x0_5"),
        pytest.param("densenet121", marks=NIGHTLY),
    ],
)
def test_stock_networks_are_pruned_in_budget(model, tmp_path):
    network = build_network(NetworkSpec(model, 1.0, 10, (3, 64, 64)))
    problem = make_problem(
        network, tmp_path, share=0.5, align=8, data=noise_data(10), max_steps=2, train_size=64
    )
    plan, result = search_plan("amc", problem, 8)
    assert 0.98 <= plan.macs / asked_macs(problem) <= 1.0
    dense = slice_network(network, result.widths).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole = network.model.eval()(images)
        assert_same(dense(images), whole, roundings=count_roundings(network.model))


@pytest.mark.slow
def test_the_plan_beats_random_plans_before_any_fine_tuning(fashion_mnist, tmp_path):
    schedule = Schedule(1, 64, 0.05, 0.1, 0.0, 0.05, 1e-4)
    options = {"share": 0.3, "data": garments(), "search": schedule}
    problem = make_problem(
        small_network(), tmp_path, max_steps=200, episodes=60, warmup_episodes=20, **options
    )
    result = amc.search(problem)
    rewards = result.figures["rewards"]
    assert np.mean(rewards[-20:]) > np.mean(rewards[:20])
    images = next(eval_batches(garments().val, image_size=32, batch_size=1000, limit=1000))
    own = evaluate(slice_network(problem.network, result.widths), [images], problem.precision)

    full = make_problem(small_network(), tmp_path, **options)
    trained = read_tensors(tmp_path / "checkpoints/search.safetensors")
    weights = {name: trained[f"model.{name}"] for name in full.network.model.state_dict()}
    full.network.model.load_state_dict(weights)
    rest, _ = hold_out(garments(), full.recipe.held_out_images, full.request.seed)
    judge, draw = amc.PlanJudge(full, amc.observe_layers(full, rest.train)), torch.Generator()
    draw.manual_seed(1000)
    plans = [
        fit_widths(full.limits, full.grid, wanted.astype(np.float64))
        for wanted in (full.space.random_units(draw) for _ in range(20))
    ]
    wins = sum(own.top1 > judge(plan, images) for plan in plans)
    assert wins >= 15
