"""Duo-100 as the package's data, the unbalanced network, and what a group's width is worth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from search_problems import chain_network, make_problem

from dmcp_deploy.data.loader import eval_batches, train_batches
from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.models import build_network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search.fit import fit_widths

CPU = torch.device("cpu")


def squares(side: int, count: int, worth):
    """Returns composites of ten full squares as a source of pictures."""
    garments = torch.full((10, 28, 28), 255, dtype=torch.uint8)
    composites = worth("duo_data").Composites(garments, torch.arange(10), CPU, side)
    return worth("duo_images").CompositeImages(composites, side, count, seed=3)


def test_smaller_canvases_hold_smaller_garments(worth):
    covered = {}
    for side in (32, 64):
        canvases = squares(side, 400, worth).views(torch.arange(400), side)
        assert canvases.shape == (400, 1, side, side)
        covered[side] = float((canvases > 0).float().mean())
    assert covered[32] == pytest.approx(covered[64], rel=0.05)


def test_composites_do_not_depend_on_who_reads_them(worth):
    images = squares(48, 40, worth)
    together = images.views(torch.arange(40), 48)
    assert torch.equal(images.views(torch.tensor([7, 3]), 48), together[[7, 3]])
    images.hold(48, 1000)
    assert torch.equal(images.views(torch.arange(40), 48), together)
    picked = images._picked[:, 2:]
    assert torch.equal(images.labels, 10 * picked[:, 0] + picked[:, 1])


@pytest.mark.needs("fashion-mnist")
def test_duo_is_trained_on_as_it_is_drawn(worth):
    data = worth("duo_images").open_duo(48, count=20, tested=10)
    assert len(data.classes) == 100
    (batch,) = train_batches(data, image_size=48, batch_size=20, seed=0, start_step=0, steps=1)
    (plain,) = train_batches(
        data, image_size=48, batch_size=20, seed=0, start_step=0, steps=1, augment=False
    )
    assert torch.equal(batch.images, plain.images)
    assert batch.images.shape == (20, 3, 48, 48)
    (test,) = eval_batches(data.val, image_size=48, batch_size=10)
    assert torch.equal(test.labels, data.val.labels)
    other = worth("duo_images").open_duo(48, count=20, tested=11)
    assert other.digest != data.digest


@pytest.mark.usefixtures("worth")  # puts the folder of networks.py on the path
def test_the_control_is_badly_balanced():
    spec = NetworkSpec("networks:small_mobilenet", 2.0, 10, (3, 32, 32))
    bad = dataclasses.replace(spec, model="networks:unbalanced_mobilenet")
    sizes = [build_network(each).sizes() for each in (spec, bad)]
    changed = {name: (sizes[0][name], sizes[1][name]) for name in sizes[0]}
    differ = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}
    assert differ == {"blocks.0.expand.0": (128, 256), "last.0": (320, 1280)}
    macs = [NetworkCost(build_network(each)).full_macs for each in (spec, bad)]
    assert macs[1] > 1.4 * macs[0]


def test_the_worth_of_a_group_to_a_search_by_hand(worth, tmp_path):
    problem = make_problem(chain_network((10, 20, 30)), tmp_path, share=0.5)
    architecture = worth("alphas").new_architecture(problem)
    with torch.no_grad():
        architecture.alphas.fill_(0.05)
    prices = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    batch = Batch(torch.zeros(16, 3, 4, 4), torch.zeros(16, dtype=torch.int64))
    found = worth("ratios").gated_worth(
        problem,
        architecture,
        lambda _: (architecture.expected_units() * prices).sum(),
        [batch],
    )
    widths = architecture.expected_units().tolist()
    # 1x1 convolutions on 4x4 from 3 channels, then a linear layer to 2 classes.
    macs = [16 * (3 + widths[1]), 16 * (widths[0] + widths[2]), 16 * widths[1] + 2]
    budget = problem.limits.limits[0].most
    by_hand = [-0.01 * price * budget / m for price, m in zip(prices.tolist(), macs, strict=True)]
    assert found == pytest.approx(by_hand)


def test_the_worth_of_a_group_in_a_plan_by_hand(worth, tmp_path):
    problem = make_problem(chain_network((10, 20, 30)), tmp_path, share=0.5)
    units = fit_widths(problem.limits, problem.grid, problem.space.full.astype(float))

    class Priced:
        """A judge that takes 1 off the loss for every percent of the budget."""

        def __init__(self) -> None:
            self.problem = problem

        def __call__(self, plans):
            return [(-100 * problem.limits.share(np.array(p)), 0.0) for p in plans]

    assert worth("ratios").sliced_worth(Priced(), units) == pytest.approx([1.0, 1.0, 1.0])


def test_a_folder_holds_what_was_painted(worth, tmp_path):
    images = squares(48, 30, worth)
    worth("duo_folder").write(images, tmp_path)
    for index, label in enumerate(images.labels.tolist()):
        path = tmp_path / f"{label:02}" / f"{index:06}.png"
        assert np.array_equal(
            np.asarray(Image.open(path)), images.views(torch.tensor([index]), 48)[0, 0]
        )
