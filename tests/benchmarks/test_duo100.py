"""Duo-100: composites and labels, and the search that can be recorded as CUDA graphs."""

from __future__ import annotations

import pytest
import torch
from search_problems import asked_macs, fresh_network, garments, macs_limits, make_problem

from dmcp_deploy.data.types import Batch
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search.dmcp import DmcpTask
from dmcp_deploy.training.recipe import Schedule
from dmcp_deploy.training.task import TrainedWeights

CPU = torch.device("cpu")


def flat_garments() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns one garment of each class: a full square whose brightness tells the class."""
    labels = torch.arange(10)
    bright = (60 + 20 * labels).to(torch.uint8)
    return bright[:, None, None].expand(10, 28, 28).contiguous(), labels


def test_labels_tell_the_large_garment_and_the_small_one(worth):
    composites = worth("duo_data").Composites(*flat_garments(), CPU)
    canvases, labels = composites.draw(64, torch.Generator().manual_seed(0))
    assert canvases.dtype == torch.uint8
    assert canvases.shape == (64, 64, 64)
    for canvas, label in zip(canvases, labels.tolist(), strict=True):
        large, small = (canvas == 60 + 20 * digit for digit in divmod(label, 10))
        # Edges are interpolated, so that sides have their full brightness on a pixel less or two.
        # The small one covers the large one, and both cover the crops.
        assert small.sum() >= 12**2
        assert large.sum() >= 24**2 - 20**2
        bright = torch.stack([canvas == 60 + 20 * digit for digit in range(10)]).any(0)
        assert (bright & ~large & ~small).sum() <= 2 * 12**2
    assert len(labels.unique()) > 30


def test_composites_are_the_same_for_a_seed_and_lie_everywhere(worth):
    composites = worth("duo_data").Composites(*flat_garments(), CPU)
    one, again, other = (composites.fixed(2000, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    covered = (one > 0).float().mean(0)
    assert covered[1:-1, 1:-1].min() > 0
    sides = [covered[:, :32], covered[:, 32:], covered[:32], covered[32:]]
    assert max(map(torch.mean, sides)) < 1.15 * min(map(torch.mean, sides))


def test_rates_on_the_device_are_the_products_sgd(worth):
    torch.manual_seed(0)
    models = [torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)) for _ in "ab"]
    models[1].load_state_dict(models[0].state_dict())
    schedule = Schedule(1, 8, 0.1, 0.5, 0.0, 0.25, 1e-2)
    ours, theirs = (
        worth("duo_steps").Descent(models[0], schedule),
        TrainedWeights(models[1], schedule, 8),
    )
    for step in range(8):
        images = torch.randn(8, 4)
        ours.drop()
        rate = theirs.start(step)
        for model in models:
            (model(images) - 1).square().mean().backward()
        ours.move(torch.tensor(rate))
        theirs.move()
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_masked_search_is_the_products_search(worth, tmp_path, monkeypatch):
    steps, data = 3, garments()
    composites = worth("duo_data").Composites(data.val._loaded()[:, 0], data.val.labels, CPU)
    make_input = worth("duo_data").network_input
    monkeypatch.setattr(worth("duo_steps"), "network_input", lambda c: make_input(c).double())
    spec = NetworkSpec("small_mobilenet:small_mobilenet", 1.0, 100, (3, 64, 64))
    ours, theirs = (make_problem(fresh_network(spec), tmp_path, align=2) for _ in "ab")
    for problem in (ours, theirs):
        problem.network.model.double()
    search = worth("duo_search").DmcpSearch(ours, steps, composites, graph=False)
    task, batches = DmcpTask(theirs, steps), worth("duo_steps").Stream(composites, 16, 0, CPU)
    for step in range(2):  # the second one is of stage 2
        batches.refill()
        images, labels = batches.batch(torch.tensor([step]))
        search.run(step, step + 1)
        figures = task.step(step, Batch(images, labels))
        assert float(search.loss) == pytest.approx(figures["loss"], rel=1e-5)
    alphas = [one.architecture.alphas.detach() for one in (search.task, task)]
    assert alphas[1].max() > 1e-3
    torch.testing.assert_close(*alphas, rtol=0, atol=1e-4)
    weights = [list(problem.network.model.parameters()) for problem in (ours, theirs)]
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_search_goes_back_to_the_end_of_its_first_stage(worth, tmp_path):
    data = garments()
    composites = worth("duo_data").Composites(data.val._loaded()[:, 0], data.val.labels, CPU)
    spec = NetworkSpec("small_mobilenet:small_mobilenet", 1.0, 100, (3, 64, 64))
    problem = make_problem(fresh_network(spec), tmp_path, align=2)
    search = worth("duo_search").DmcpSearch(problem, 4, composites, graph=False)
    search.run(0, 2)
    search.keep()
    kept = [p.detach().clone() for p in problem.network.model.parameters()]
    search.run(2, 4)
    search.go_back(macs_limits(problem.network, asked_macs(problem) // 2), "exp")
    for one, other in zip(problem.network.model.parameters(), kept, strict=True):
        assert torch.equal(one, other)
    widths, share = search.widths()
    assert share == pytest.approx(problem.accounting.full_macs / (asked_macs(problem) // 2))
    assert problem.accounting.macs_at(widths) <= asked_macs(problem) // 2
