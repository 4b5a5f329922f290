"""AutoSlim on real images: what it judges on, several budgets, in two parts as in one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from closeness import assert_same, count_roundings
from search_problems import (
    asked_macs,
    changed,
    garments,
    macs_limits,
    make_problem,
    small_network,
    some_batch,
)
from torch import Tensor, nn

from dmcp_deploy.data.sources import ImageSource
from dmcp_deploy.data.types import Batch
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search import autoslim
from dmcp_deploy.search.dmcp import DmcpTask
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.slimmable import SharedWeights
from dmcp_deploy.training.evaluate import batch_statistics
from dmcp_deploy.training.metrics import read_metrics
from dmcp_deploy.training.weights import read_tensors

pytestmark = pytest.mark.usefixtures("fashion_mnist")

STEPS = 5  # of the weights, and so as many turns at most: too few for the budget


def short_search(folder: Path, **changes: object) -> SearchProblem:
    options = {"data": garments(), "share": 0.5, "align": 8, "max_steps": STEPS, **changes}
    return make_problem(small_network(), folder, **options)


def saved(problem: SearchProblem, name: str) -> dict[str, Tensor]:
    return read_tensors(problem.folder / "checkpoints" / f"{name}.safetensors")


def assert_equal_states(one: SearchProblem, other: SearchProblem) -> None:
    for name in ("search", "slim"):
        first, second = saved(one, name), saved(other, name)
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[SearchProblem, SearchResult]:
    problem = short_search(tmp_path_factory.mktemp("undisturbed"))
    return problem, autoslim.search(problem)


def test_a_search_tells_its_way_from_the_full_network_to_the_budget(undisturbed):
    problem, result = undisturbed
    assert result.trained
    path = json.loads(json.dumps(result.figures))["path"]
    assert len(path) == STEPS
    macs = [problem.accounting.full_macs, *(turn["macs"] for turn in path)]
    assert all(after < before for before, after in pairwise(macs))
    widths = {group.name: group.size for group in problem.network.prunable}
    for turn in path:
        assert turn["channels"] < widths[turn["group"]]
        widths[turn["group"]] = turn["channels"]
        assert problem.accounting.macs_at(widths) == turn["macs"]
    assert 0.98 <= problem.accounting.macs_at(result.widths) / asked_macs(problem) <= 1.0


def test_every_turn_has_taken_the_lowest_loss_there_was(undisturbed):
    problem, result = undisturbed
    judge = autoslim._Judge(problem)
    start = problem.grid.high
    plans = autoslim.greedy.ladder(problem.space, problem.grid).slimmer(start)
    losses = judge.losses(list(plans.values()))
    first = result.figures["path"][0]
    assert min(losses) == pytest.approx(first["loss"], abs=1e-5)  # on record with five decimals
    assert problem.space.names[list(plans)[int(np.argmin(losses))]] == first["group"]
    assert max(losses) > min(losses)


def test_stage_1_is_the_weight_step_of_dmcp(tmp_path):
    states = []
    for make in (SharedWeights, DmcpTask):
        task = make(make_problem(small_network(), tmp_path, data=garments()), steps=8)
        for step in range(3):
            figures = task.step(step, some_batch(step=step))
        assert figures.keys() == {"loss", "distill"}
        states.append(task.tensors())
    slim, dmcp = states
    assert [name for name in dmcp if name not in slim] == ["alphas"]
    assert [name for name in slim if not torch.equal(slim[name], dmcp[name])] == []


class InterruptedSearchError(Exception):
    pass


def fail(*_: object, **__: object) -> NoReturn:
    raise InterruptedSearchError


@pytest.mark.parametrize("at", [0, 1])
def test_slimming_in_two_parts_ends_bit_for_bit_like_one(at, undisturbed, tmp_path, monkeypatch):
    judged = []

    class Failing(autoslim._Judge):
        def losses(self, plans: Sequence[np.ndarray]) -> list[float]:
            if len(judged) == at:
                raise InterruptedSearchError
            judged.append(len(plans))
            return super().losses(plans)

    with monkeypatch.context() as patch:
        patch.setattr(autoslim, "_Judge", Failing)
        with pytest.raises(InterruptedSearchError):
            autoslim.search(short_search(tmp_path))
    assert len(judged) == at
    resumed = short_search(tmp_path)
    monkeypatch.setattr(SharedWeights, "step", fail)
    assert autoslim.search(resumed) == undisturbed[1]
    assert_equal_states(resumed, undisturbed[0])


def test_a_search_stopped_in_stage_1_ends_bit_for_bit_like_one(undisturbed, tmp_path, monkeypatch):
    step = SharedWeights.step
    with monkeypatch.context() as patch:
        patch.setattr(
            SharedWeights,
            "step",
            lambda own, at, *rest: (fail if at == 3 else step)(own, at, *rest),
        )
        with pytest.raises(InterruptedSearchError):
            autoslim.search(short_search(tmp_path, checkpoint_s=0.0))
    assert len(read_metrics(tmp_path / "metrics/search.jsonl")) == 3
    resumed = short_search(tmp_path)
    assert autoslim.search(resumed) == undisturbed[1]
    assert_equal_states(resumed, undisturbed[0])


def test_a_search_that_is_done_judges_nothing_again(undisturbed, monkeypatch):
    monkeypatch.setattr(autoslim._Judge, "losses", fail)
    again = short_search(undisturbed[0].folder)
    assert autoslim.search(again) == undisturbed[1]


def test_several_budgets_in_one_pass_are_those_of_single_passes(undisturbed, tmp_path):
    problem, result = undisturbed
    turns = (2, 4, 3)  # that each budget takes
    budgets = [result.figures["path"][count - 1]["macs"] for count in turns]
    limits = [macs_limits(problem.network, budget_macs) for budget_macs in budgets]
    together = autoslim.slim(replace(problem, folder=tmp_path / "all"), limits)
    for budget_macs, limit, plan, count in zip(budgets, limits, together, turns, strict=True):
        single = replace(problem, folder=tmp_path / str(budget_macs))
        (alone,) = autoslim.slim(single, [limit])
        assert (alone == plan).all()
        assert problem.accounting.macs(plan) == budget_macs
        assert len(saved(single, "slim")["loss"]) == count
    # A smaller budget goes on where a larger one ended.
    begun = replace(problem, folder=tmp_path / str(budgets[0]))
    before = saved(begun, "slim")["loss"]
    (found,) = autoslim.slim(begun, [limits[1]])
    assert (found == together[1]).all()
    after = saved(begun, "slim")["loss"]
    assert (len(before), len(after)) == (2, 4)
    assert torch.equal(after[:2], before)


def test_a_budget_out_of_reach_is_refused(undisturbed):
    problem = undisturbed[0]
    with pytest.raises(DmcpError, match="below the narrowest network"):
        autoslim.slim(problem, [problem.limits, macs_limits(problem.network, 1000)])


def test_a_trial_takes_few_turns_and_looks_at_one_batch(tmp_path):
    problem = short_search(tmp_path, max_steps=2, share=0.3)
    result = autoslim.search(problem)
    assert len(result.figures["path"]) == 2
    assert result.figures["held_out_images"] == problem.recipe.search.batch_size
    assert 0.98 <= problem.accounting.macs_at(result.widths) / asked_macs(problem) <= 1.0


def test_a_full_search_looks_at_all_images_held_out(tmp_path):
    for max_steps, images in ((None, 1024), (639, 1008), (25, 32)):
        judge = autoslim._Judge(short_search(tmp_path, max_steps=max_steps))
        assert judge.images == images


class Untouchable(ImageSource):
    """Validation images that nothing may look at."""

    picture = views = hold = _make_views = fail


def test_no_validation_image_is_looked_at(tmp_path):
    data = replace(garments(), val=Untouchable(garments().val.labels, 1, "squash"))
    autoslim.search(short_search(tmp_path, data=data, max_steps=2))


def test_losses_are_those_of_batch_statistics_on_images_not_trained_on(undisturbed):
    problem = undisturbed[0]
    judge, units = autoslim._Judge(problem), problem.space.minimum
    before = {name: t.clone() for name, t in problem.network.model.state_dict().items()}
    (found,) = judge.losses([units])
    model, total = problem.network.model, 0.0
    model.train()  # it has no dropout: this is what training computes
    with torch.no_grad():
        for batch in judge._batches:
            logits = Supernet(problem.network)(batch.images, problem.space.widths(units))
            total += float(nn.functional.cross_entropy(logits, batch.labels, reduction="sum"))
    assert_same(found, total / judge.images, roundings=count_roundings(model))
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_dropout_does_not_disturb_the_losses():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    images = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) * 3 + 7
    with batch_statistics(model):
        first, second = model(images).detach(), model(images).detach()
        assert not model[1].training
    assert torch.equal(first, second)
    # The batch's own mean was taken off.
    assert_same(first.mean(0), [0.0] * 4, scale=float(first.abs().max()), roundings=len(images))
    assert model[0].training
    assert model[1].training


def test_a_supernet_of_dmcp_can_be_slimmed_and_the_other_way_round(undisturbed, tmp_path):
    # The full network's weights are all that a search on a slimmable network leaves behind.
    problem = undisturbed[0]
    weights = {name: t.clone() for name, t in problem.network.model.state_dict().items()}
    network = small_network(seed=9)
    network.model.load_state_dict(weights)
    other = short_search(tmp_path)
    moved = replace(other, network=network)
    (found,) = autoslim.slim(moved, [problem.limits])
    assert problem.space.widths(found) == undisturbed[1].widths


NIGHTLY = pytest.mark.nightly("ten seconds for concatenations, which a tiny network has as well")


@pytest.mark.parametrize(
    "model",
    [
        "squeezenet1_1",
        pytest.param("mobilenet_v3_small", marks=pytest.mark.slow),
        pytest.param("densenet121", marks=[pytest.mark.slow, NIGHTLY]),
        pytest.param("efficientnet_b0", marks=pytest.mark.slow),
    ],
)
def test_stock_networks_are_slimmed_to_the_budget(model, tmp_path):
    size = 64 if model == "squeezenet1_1" else 32
    network = build_network(NetworkSpec(model, 1.0, 10, (3, size, size)))
    problem = make_problem(network, tmp_path, share=0.5, align=8, data=garments(), max_steps=1)
    result = autoslim.search(replace(problem, recipe=replace(problem.recipe, random_networks=1)))
    assert len(result.figures["path"]) == 1
    assert result.widths.keys() == {group.name for group in network.prunable}
    for group in network.prunable:
        width = result.widths[group.name]
        assert width % group.unit == 0
        assert group.size <= 8 or width % 8 == 0
    assert 0.98 <= problem.accounting.macs_at(result.widths) / asked_macs(problem) <= 1.0


def test_batches_of_another_process_are_left_to_it(undisturbed, monkeypatch):
    problem = changed(undisturbed[0], max_steps=50)
    whole = autoslim._Judge(problem)
    shares: list[list[Batch]] = []
    monkeypatch.setattr(autoslim, "world_size", lambda: 2)
    for number in range(2):
        monkeypatch.setattr(autoslim, "rank", lambda number=number: number)
        shares.append(autoslim._Judge(problem)._batches)
    assert [len(share) for share in shares] == [3, 2]
    ordered = [shares[i % 2][i // 2] for i in range(5)]
    for one, other in zip(whole._batches, ordered, strict=True):
        assert torch.equal(one.images, other.images)
