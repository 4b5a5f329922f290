"""Duo-100: composites and labels, the recordable search, and the statistics of its report."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from search_problems import asked_macs, fresh_network, garments, macs_limits, make_problem

from dmcp_deploy.data.types import Batch
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search.dmcp import DmcpTask
from dmcp_deploy.training.recipe import Schedule
from dmcp_deploy.training.task import TrainedWeights

FOLDER = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def duo():
    """Returns what imports one of the benchmark's modules."""
    if not FOLDER.is_dir():
        pytest.skip("the benchmarks are not beside the tests")
    sys.path.insert(0, str(FOLDER))
    yield lambda name: importlib.import_module(f"duo100_{name}")
    sys.path.remove(str(FOLDER))


def flat_garments() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns one garment of each class: a full square whose brightness tells the class."""
    labels = torch.arange(10)
    bright = (60 + 20 * labels).to(torch.uint8)
    return bright[:, None, None].expand(10, 28, 28).contiguous(), labels


def test_labels_tell_the_large_garment_and_the_small_one(duo):
    composites = duo("data").Composites(*flat_garments(), CPU)
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


def test_composites_are_the_same_for_a_seed_and_lie_everywhere(duo):
    composites = duo("data").Composites(*flat_garments(), CPU)
    one, again, other = (composites.fixed(2000, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    covered = (one > 0).float().mean(0)
    assert covered[1:-1, 1:-1].min() > 0
    sides = [covered[:, :32], covered[:, 32:], covered[:32], covered[32:]]
    assert max(map(torch.mean, sides)) < 1.15 * min(map(torch.mean, sides))


def test_rates_on_the_device_are_the_products_sgd(duo):
    torch.manual_seed(0)
    models = [torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)) for _ in "ab"]
    models[1].load_state_dict(models[0].state_dict())
    schedule = Schedule(1, 8, 0.1, 0.5, 0.0, 0.25, 1e-2)
    ours, theirs = duo("steps").Descent(models[0], schedule), TrainedWeights(models[1], schedule, 8)
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


def test_masked_search_is_the_products_search(duo, tmp_path, monkeypatch):
    steps, data = 3, garments()
    composites = duo("data").Composites(data.val._loaded()[:, 0], data.val.labels, CPU)
    make_input = duo("data").network_input
    monkeypatch.setattr(duo("steps"), "network_input", lambda c: make_input(c).double())
    spec = NetworkSpec("small_mobilenet:small_mobilenet", 1.0, 100, (3, 64, 64))
    ours, theirs = (make_problem(fresh_network(spec), tmp_path, align=2) for _ in "ab")
    for problem in (ours, theirs):
        problem.network.model.double()
    search = duo("steps").DmcpSearch(ours, steps, composites, graph=False)
    task, batches = DmcpTask(theirs, steps), duo("steps").Stream(composites, 16, 0, CPU)
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


def test_a_search_goes_back_to_the_end_of_its_first_stage(duo, tmp_path):
    data = garments()
    composites = duo("data").Composites(data.val._loaded()[:, 0], data.val.labels, CPU)
    spec = NetworkSpec("small_mobilenet:small_mobilenet", 1.0, 100, (3, 64, 64))
    problem = make_problem(fresh_network(spec), tmp_path, align=2)
    search = duo("steps").DmcpSearch(problem, 4, composites, graph=False)
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


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (7, 2.3646), (30, 2.0423)]
)
def test_quantiles_are_those_of_the_table(duo, freedom, quantile):
    assert duo("report").student_quantile(freedom) == pytest.approx(quantile, abs=1e-4)


def test_welch_by_hand(duo):
    mean_of, welch = duo("report").mean_of, duo("report").welch
    # Variances of the means 1/3 and 4/4: 16/9 over (1/9)/2 + 1/3 is 32/7 degrees of freedom.
    left, right = mean_of([1.0, 2.0, 3.0]), mean_of([0.0, 0.0, 3.4641016, 3.4641016])
    found = welch(left, right)
    assert found.value == pytest.approx(2 - 1.7320508)
    assert found.variance == pytest.approx(4 / 3)
    assert found.freedom == pytest.approx(32 / 7)


def test_networks_of_one_search_count_once(duo):
    records = [
        {"search": search, "seed": seed, "top1": top1 / 100}
        for seed, (search, top1) in enumerate([(0, 50.0), (1, 60.0), (0, 52.0), (1, 62.0)])
    ]
    by_search = duo("report").arm_mean(records)
    assert (by_search.value, by_search.freedom) == (pytest.approx(56), 1)
    assert by_search.variance == pytest.approx(25)  # of 51 and 61: 50 over 2
    assert duo("report").arm_mean(records, by_search=False).freedom == 3


def test_a_margin_as_multiply_adds(duo):
    report = duo("report")
    uniform, larger = report.Mean(50, 0.01, 7), report.Mean(53, 0.01, 3)
    arm = report.Mean(51, 0.04, 2)
    found = report.log_macs(arm, uniform, larger, 1.35)
    # A third of the way, so a third of ln 1.35; the slope is 3 points over that.
    assert found.value == pytest.approx(0.3001046 / 3)
    by_hand = (0.05 + 0.02 / 9 - 2 * 0.01 / 3) / (3 / 0.3001046) ** 2
    assert found.variance == pytest.approx(by_hand)
    assert report.log_macs(arm, uniform, report.Mean(50.1, 0.01, 3), 1.35) is None
