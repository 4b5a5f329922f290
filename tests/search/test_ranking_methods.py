"""Methods that rank filters: what they keep, how softly pruned filters come back, resuming."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_same, count_roundings, difference
from search_problems import asked_macs, changed, garments, make_problem, small_network, some_batch
from tiny_nets import Chain, Product, Separable, trace_tiny

from dmcp_deploy.data.holdout import hold_out
from dmcp_deploy.data.types import Batch, ImageData
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.slice import TOLERANCE
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.importance import distance_sum, filter_scores, l2_norm
from dmcp_deploy.network.masking import silence
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import Keep, NetworkSpec
from dmcp_deploy.search import magnitude, masked
from dmcp_deploy.search.baselines import search_uniform
from dmcp_deploy.search.masked import MaskedTask
from dmcp_deploy.search.metapruning import PruningNetTask
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.ranking import best_units, full_recipe, keeps
from dmcp_deploy.search.run import find_method, search_plan
from dmcp_deploy.training.dense import AVERAGE, DenseTask
from dmcp_deploy.training.metrics import read_metrics
from dmcp_deploy.training.weights import read_tensors

RANKINGS = ("l1", "l2", "bn-scale", "fpgm", "sfp")
EPOCH = 3  # steps


@functools.cache
def few_garments() -> ImageData:
    """Returns pictures for three steps an epoch."""
    _, few = hold_out(garments(), 16 * EPOCH, seed=0)
    return replace(garments(), train=few)


def short_problem(folder: Path, **changes: object) -> SearchProblem:
    options = {"data": few_garments(), "share": 0.5, "max_steps": 7, **changes}
    schedule = replace(make_problem(small_network(), folder).recipe.search, epochs=5)
    return make_problem(small_network(), folder, search=schedule, **options)


def state(network: Network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.model.state_dict().items()}


def assert_equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


# What is kept.


@pytest.mark.parametrize("method", RANKINGS)
def test_given_weights_are_ranked_and_all_widths_are_those_of_uniform(method, tmp_path):
    problem = make_problem(small_network(), tmp_path, share=0.4, pretrained=True)
    if method == "sfp":  # the only one that trains given weights
        problem = changed(problem, data=few_garments(), max_steps=1)
    before = state(problem.network)
    result = find_method(method)(problem)
    assert result.trained is (method == "sfp")
    if method != "sfp":
        assert_equal(state(problem.network), before)
    assert result.channels() == search_uniform(problem).channels()
    if method != "bn-scale":  # all scales are 1: the first are as good as any
        assert any(not isinstance(keep.kept, int) for keep in result.widths.values())


def test_the_best_units_are_kept_and_leading_ones_are_a_number(tmp_path):
    network = trace_tiny(Chain)
    problem = make_problem(network, tmp_path, share=0.5)
    first, second = problem.uniform_units(problem.limits).tolist()
    rising, falling = np.arange(8.0), -np.arange(12.0)
    kept = keeps(network, best_units(problem, np.concatenate([rising, falling]), problem.limits))
    assert kept["conv1"] == Keep(8, tuple(range(8 - first, 8)))
    assert kept["conv2"] == Keep(12, second)


def test_units_of_several_channels_are_kept_whole(tmp_path):
    network = build_network(NetworkSpec("tiny_nets:GroupNormed", 1.0, 5, (3, 8, 8)))
    kept = np.array([True, False, True, False, False, True, True])
    assert keeps(network, kept) == {
        "conv1": Keep(8, (0, 1, 4, 5)),
        "conv2": Keep(6, (2, 3, 4, 5)),
    }


def test_bn_scale_keeps_the_largest_scales(tmp_path):
    network = trace_tiny(Chain)
    with torch.no_grad():
        network.model.bn1.weight.copy_(torch.tensor([0.1, -0.9, 0.2, 0.8, -0.3, 0.7, 0.0, 0.6]))
    problem = make_problem(network, tmp_path, share=0.5, pretrained=True)
    count = problem.uniform_units(problem.limits)[0]
    largest = sorted([1, 3, 5, 7, 4, 2, 0, 6][:count])
    assert magnitude.search_bn_scale(problem).widths["conv1"].indices() == largest


def test_bn_scale_ranks_by_filters_where_nothing_is_scaled():
    network = trace_tiny(Separable)
    squeeze = next(g for g in network.prunable if g.name == "squeeze")
    with torch.no_grad():
        network.model.squeeze.weight[0] = 1.0
        network.model.squeeze.weight[1] = 3.0
    scores = magnitude.bn_scale_scores(network)
    assert scores[squeeze.first : squeeze.first + 2].tolist() == [0.5, 1.5]


def test_bn_scale_refuses_a_network_without_scales(tmp_path):
    with pytest.raises(DmcpError, match="Product has none: choose l1"):
        magnitude.search_bn_scale(make_problem(trace_tiny(Product), tmp_path))


@pytest.mark.usefixtures("fashion_mnist")
def test_bn_scale_trains_with_a_penalty_on_scales_alone(tmp_path):
    task = [None, None]
    for number, kind in enumerate((magnitude.DenseTask, magnitude.SparseTask)):
        problem = make_problem(small_network(), tmp_path)
        model = problem.network.model
        with torch.no_grad():
            model.stem[1].weight[0] = -1.0
        task[number] = kind(model, problem.recipe, 10, problem.precision)
        torch.manual_seed(0)
        task[number]._gradients(some_batch())
        task[number] = {name: p.grad for name, p in model.named_parameters()}
    plain, sparse = task
    signs = torch.ones(16)
    signs[0] = -1.0
    moved = sparse["stem.1.weight"] - plain["stem.1.weight"]
    size = float(plain["stem.1.weight"].abs().max())
    assert_same(moved, 1e-4 * signs, scale=size)
    assert torch.equal(sparse["stem.0.weight"], plain["stem.0.weight"])
    assert torch.equal(sparse["stem.1.bias"], plain["stem.1.bias"])


@pytest.mark.parametrize("method", [PruningNetTask, DenseTask, MaskedTask])
def test_a_search_averages_no_weights_that_nothing_reads(method, tmp_path):
    problem = changed(short_problem(tmp_path), ema_decay=0.9)
    if method is DenseTask:
        task = DenseTask(problem.network.model, full_recipe(problem), 4, problem.precision)
    elif method is MaskedTask:
        task = MaskedTask(problem, 4, partial(filter_scores, measure=l2_norm), soft=True)
    else:
        task = PruningNetTask(problem, 4)
    assert not [name for name in task.tensors() if name.startswith(AVERAGE)]
    task.load({**task.tensors(), f"{AVERAGE}stem.0.weight": torch.zeros(1)})  # of older releases


# Soft and hard masks.


def soft_task(folder: Path) -> tuple[MaskedTask, Network]:
    problem = short_problem(folder)
    scores = partial(filter_scores, measure=l2_norm)
    return MaskedTask(problem, 5 * EPOCH, scores, soft=True), problem.network


def run(task: MaskedTask, first: int, count: int) -> list[Mapping[str, float]]:
    return [task.step(step, some_batch(step=step)) for step in range(first, first + count)]


def stem(network: Network) -> torch.Tensor:
    return network.model.stem[0].weight.detach()


@pytest.mark.usefixtures("fashion_mnist")
def test_softly_zeroed_filters_are_chosen_after_every_epoch_and_trained_on(tmp_path):
    task, network = soft_task(tmp_path)
    figures = run(task, 0, EPOCH)
    assert ["exchanged" in f for f in figures] == [False, False, True]
    assert figures[-1]["exchanged"] == (~task.kept).sum() > 0
    dropped = torch.from_numpy(~task.kept[:16])
    assert not stem(network)[dropped].any()
    assert stem(network)[~dropped].flatten(1).norm(dim=1).min() > 0
    run(task, EPOCH, 1)
    assert stem(network)[dropped].any()


@pytest.mark.usefixtures("fashion_mnist")
def test_a_zeroed_filter_comes_back_if_it_has_grown_and_goes_again_if_not(tmp_path):
    task, network = soft_task(tmp_path)
    last = next(group for group in network.prunable if group.name == "last.0")
    run(task, 0, 2 * EPOCH - 1)
    before = task.kept[last.first :][: last.units].copy()
    (weakest, *stronger), (grown, weak, *zero) = np.flatnonzero(before), np.flatnonzero(~before)
    norms = {weakest: 1.0, grown: 1.5, weak: 0.5}
    norms |= dict.fromkeys(stronger, 2.0) | dict.fromkeys(zero, 0.0)
    weight = network.model.last[0].weight
    for group in task._weights._optimizer.param_groups:  # the next step leaves it alone
        group["params"] = [parameter for parameter in group["params"] if parameter is not weight]
    filters = torch.stack([torch.full((64, 1, 1), norms[n] / 8) for n in range(128)])
    with torch.no_grad():
        weight.copy_(filters)
    run(task, 2 * EPOCH - 1, 1)
    after = task.kept[last.first :][: last.units]
    assert np.flatnonzero(after).tolist() == sorted([grown, *stronger])
    gone = [weakest, weak, *zero]
    assert not weight[gone].any()
    filters[gone] = 0.0
    assert torch.equal(weight, filters)


@pytest.mark.usefixtures("fashion_mnist")
@pytest.mark.parametrize("method", ["sfp", "fpgm"])
def test_a_trained_network_has_silent_channels_where_none_are_kept(method, tmp_path):
    problem = short_problem(tmp_path)
    result = find_method(method)(problem)
    images, model = some_batch().images.double(), problem.network.model.double().eval()
    exact = {"roundings": count_roundings(model), "precision": "fp64"}
    dense = slice_network(problem.network, result.widths).eval()
    with torch.no_grad():
        whole = model(images)
        assert_same(dense(images), whole, **exact)
        assert_same(Supernet(problem.network)(images, result.widths), whole, **exact)


@pytest.mark.usefixtures("fashion_mnist")
def test_fpgm_chooses_after_the_first_epoch_and_keeps_what_it_zeroed_at_zero(tmp_path):
    problem = short_problem(tmp_path)
    scores = partial(filter_scores, measure=distance_sum)
    task = MaskedTask(problem, 5 * EPOCH, scores, soft=False)
    run(task, 0, EPOCH - 1)
    assert task.kept.all()
    run(task, EPOCH - 1, 1)
    chosen = task.kept.copy()
    # Those nearest to all others, of the weights before they were zeroed: none is at zero now.
    assert not chosen.all()
    run(task, EPOCH, 2 * EPOCH)
    assert (task.kept == chosen).all()
    weights = state(problem.network)
    silence(problem.network, chosen)
    assert_equal(state(problem.network), weights)


@pytest.mark.usefixtures("fashion_mnist")
def test_given_weights_are_softly_pruned_before_the_first_step_at_a_tenth_of_the_rate(tmp_path):
    problem = short_problem(tmp_path, pretrained=True)
    scores = partial(filter_scores, measure=l2_norm)
    task = MaskedTask(problem, 5 * EPOCH, scores, soft=True)
    assert not task.kept.all()
    figures = task.step(7, some_batch())
    assert figures["lr"] == pytest.approx(0.1 * problem.recipe.search.lr_at(7, 5 * EPOCH))


class InterruptedSearchError(Exception):
    pass


_OTHER_TIMES = (("sfp", 2), ("fpgm", 5))


@pytest.mark.usefixtures("fashion_mnist")
@pytest.mark.parametrize(
    ("method", "at"),
    [("sfp", 5), ("fpgm", 2), *(pytest.param(*c, marks=pytest.mark.slow) for c in _OTHER_TIMES)],
)
def test_a_search_in_two_parts_ends_bit_for_bit_like_one(method, at, tmp_path, monkeypatch):
    class Failing(MaskedTask):
        def step(self, step: int, batch: Batch) -> Mapping[str, float]:
            if step == at:
                raise InterruptedSearchError
            return super().step(step, batch)

    whole = short_problem(tmp_path / "one")
    expected = find_method(method)(whole)
    with monkeypatch.context() as patch:
        patch.setattr(masked, "MaskedTask", Failing)
        with pytest.raises(InterruptedSearchError):
            find_method(method)(short_problem(tmp_path / "two", checkpoint_s=0.0))
    resumed = short_problem(tmp_path / "two")
    assert find_method(method)(resumed) == expected
    assert_equal(state(resumed.network), state(whole.network))
    one, two = (
        read_tensors(tmp_path / name / "checkpoints/search.safetensors") for name in ("one", "two")
    )
    assert_equal(one, two)
    reports = read_metrics(tmp_path / "two/metrics/search.jsonl")
    ends = [report["step"] for report in reports if "exchanged" in report]
    assert ends == ([2, 5, 6] if method == "sfp" else [2])


@pytest.mark.usefixtures("fashion_mnist")
def test_the_end_of_a_training_can_be_loaded_again(tmp_path):
    first = find_method("sfp")(short_problem(tmp_path))
    assert find_method("sfp")(short_problem(tmp_path)) == first


# Stock networks.


@pytest.mark.usefixtures("fashion_mnist")
@pytest.mark.parametrize(
    ("model", "method"),
    [
        pytest.param(*(model, method), marks=[] if (model, method) == quick else pytest.mark.slow)
        for model, quick in (
            ("densenet121", None),
            ("mobilenet_v3_small", ("mobilenet_v3_small", "bn-scale")),
        )
        for method in RANKINGS
    ],
)
def test_stock_networks_are_ranked_in_budget_and_sliced(model, method, tmp_path):
    network = build_network(NetworkSpec(model, 1.0, 10, (3, 32, 32)))
    problem = make_problem(network, tmp_path, share=0.4, align=8, data=garments(), max_steps=3)
    plan, result = search_plan(method, problem, 8)
    assert 0.98 <= plan.macs / asked_macs(problem) <= 1.0
    assert result.channels().keys() == {group.name for group in network.prunable}
    for group in network.prunable:
        width = plan.groups[group.name].width
        assert width % 8 == 0 or group.size <= 8
    images = some_batch(4).images
    dense = slice_network(network, plan.groups).eval()
    assert sum(p.numel() for p in dense.parameters()) == plan.params
    with torch.no_grad():
        cut = Supernet(network).eval()(images, plan.groups)
        assert difference(dense(images), cut) <= TOLERANCE
