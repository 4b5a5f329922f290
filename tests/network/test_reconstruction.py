"""Refitted weights: exact where they can be, and near the old ones where samples do not tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from closeness import assert_same, count_roundings, difference
from tiny_nets import Chain, Grouped, Separable, Shared, trace_tiny
from torch import Tensor, nn

from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.reconstruction import (
    POSITIONS,
    Reconstruction,
    compensated,
    consumers,
    input_scores,
)
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.plan import Keep, NetworkSpec

SIDE = 9


class SelfPadding(nn.Conv2d):
    """Pads by itself, as TensorFlow's convolutions do in other libraries."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1)))


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def dependent_network(consumer: nn.Module, *, flat: bool = False) -> Network:
    """Returns a stem of 8 channels, of which the last 4 are sums of the first, and a consumer."""
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    with torch.no_grad():
        stem.weight[4:] = torch.einsum("oc,cikl->oikl", torch.randn(4, 4), stem.weight[:4])
    head: list[nn.Module] = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)]
    if flat:
        head = [nn.ReLU(), nn.Linear(6, 5)]
    layers = [stem, *([nn.Flatten()] if flat else []), consumer, *head]
    return trace_network(nn.Sequential(*layers), NetworkSpec("dependent", 1.0, 5, (3, SIDE, SIDE)))


def first_four(network: Network) -> np.ndarray:
    """Keeps the first half of the stem and everything else."""
    kept = np.ones(network.unit_count, dtype=bool)
    kept[4:8] = False
    return kept


@torch.no_grad()
def without_half_of_its_stem(network: Network, fresh: Tensor) -> Tensor:
    return slice_network(network, {"0": Keep(8, 4)}).eval()(fresh)


CONSUMERS = {
    "1x1": lambda: nn.Conv2d(8, 6, 1),
    "3x3 strided": lambda: nn.Conv2d(8, 6, 3, stride=2, padding=1, bias=False),
    "dilated, same": lambda: nn.Conv2d(8, 6, 3, dilation=2, padding="same"),
    "reflected, not square": lambda: nn.Conv2d(
        8, 6, (3, 2), stride=(1, 2), padding=(1, 1), padding_mode="reflect"
    ),
    "flattened": lambda: nn.Linear(8 * SIDE * SIDE, 6),
}


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_channels_that_depend_on_kept_ones_are_made_up_for_exactly(consumer):
    network = dependent_network(CONSUMERS[consumer](), flat=consumer == "flattened")
    fresh = images(4, seed=1)
    with torch.no_grad():
        expected = network.model.eval()(fresh)
    reconstruction = Reconstruction(network, ridge=1e-9)
    for number in range(12):  # a linear layer has one sample of each image
        reconstruction.observe(images(32, seed=2 + number), generator().manual_seed(number))
    assert difference(without_half_of_its_stem(network, fresh), expected) > 0.1
    reconstruction.refit(first_four(network))
    refitted = without_half_of_its_stem(network, fresh)
    assert_same(refitted, expected, roundings=count_roundings(network.model))
    reconstruction.restore()
    assert difference(without_half_of_its_stem(network, fresh), expected) > 0.1


def test_moments_are_those_of_the_patches_that_unfold_makes():
    network = dependent_network(nn.Conv2d(8, 6, 3, stride=4, padding=1))
    assert network.layers["1"].positions == 9 <= POSITIONS
    reconstruction = Reconstruction(network)
    reconstruction.observe(images(5), generator())
    with torch.no_grad():
        patches = F.unfold(network.model[0](images(5)), 3, stride=4, padding=1)
    rows = patches.transpose(1, 2).reshape(-1, 72).double()
    assert reconstruction.samples["1"] == 45
    assert_same(reconstruction.moments["1"], rows.T @ rows, roundings=27)
    reconstruction.gather(lambda own: 2 * own)
    assert reconstruction.samples["1"] == 90
    assert_same(reconstruction.moments["1"], 2 * rows.T @ rows, roundings=27)


def test_of_large_outputs_some_positions_are_looked_at():
    network = dependent_network(nn.Conv2d(8, 6, 1))
    reconstruction = Reconstruction(network)
    reconstruction.observe(images(5), generator())
    assert reconstruction.samples == {"1": 5 * POSITIONS, "5": 5}


# Least squares by hand.


def test_the_weight_of_an_input_goes_to_the_one_it_depends_on():
    # The second input is twice the first: 1 x + 3 (2 x) = 7 x.
    samples = torch.tensor([[1.0, 2.0], [-3.0, -6.0]], dtype=torch.float64)
    keep = torch.tensor([True, False])
    found = compensated(torch.tensor([[1.0, 3.0]]), samples.T @ samples, keep, ridge=1e-12)
    assert found.tolist() == [[pytest.approx(7.0), 0.0]]
    # Kept and dropped change places: 3 y + 1 (y / 2).
    found = compensated(torch.tensor([[1.0, 3.0]]), samples.T @ samples, ~keep, ridge=1e-12)
    assert found.tolist() == [[0.0, pytest.approx(3.5)]]


def test_a_part_that_the_kept_input_explains_is_made_up_for():
    # Samples (1, 1) and (1, 0): the second input is half of the first, on average.
    samples = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    found = compensated(
        torch.tensor([[2.0, 4.0]]), samples.T @ samples, torch.tensor([True, False]), ridge=1e-12
    )
    assert found.tolist() == [[pytest.approx(4.0), 0.0]]


def test_the_ridge_holds_weights_where_they_are():
    # (2 + 1 * 2) d = 1 * 4: half of what least squares would add.
    samples = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    found = compensated(
        torch.tensor([[2.0, 4.0]]), samples.T @ samples, torch.tensor([True, False]), ridge=1.0
    )
    assert found.tolist() == [[pytest.approx(3.0), 0.0]]


def test_independent_inputs_leave_the_others_as_they_are():
    weight = torch.randn(3, 4)
    keep = torch.tensor([True, False, True, True])
    found = compensated(weight, torch.eye(4, dtype=torch.float64), keep)
    assert torch.equal(found, weight * keep)


@pytest.mark.parametrize("case", ["dead", "twins", "few samples", "none kept", "all dead"])
def test_what_has_no_single_solution_has_a_finite_one(case):
    draw = torch.Generator().manual_seed(0)
    samples = torch.randn(64, 12, generator=draw, dtype=torch.float64)
    weight = torch.randn(5, 12, generator=draw)
    keep = torch.arange(12) < 8
    if case == "dead":
        samples[:, [0, 5, 9]] = 0.0
    elif case == "twins":
        samples[:, 1] = samples[:, 0]
        samples[:, 8:] = samples[:, :4]
    elif case == "few samples":
        samples = samples[:3]
    elif case == "none kept":
        keep = torch.zeros(12, dtype=torch.bool)
    else:
        samples.zero_()
    found = compensated(weight, samples.T @ samples, keep)
    assert torch.isfinite(found).all()
    assert not found[:, ~keep].any()
    before = samples @ (weight * keep - weight).double().T
    after = samples @ (found - weight).double().T
    assert after.norm() <= before.norm() * (1 + 1e-9)
    if case in ("twins", "few samples"):  # all is explained
        assert after.norm() < 0.01 * before.norm()
    if case == "few samples":  # by a small change
        assert (found - weight * keep).norm() < 2 * weight.norm()


# Whose weights are refitted.


def test_layers_that_lose_whole_convolution_groups_are_none_of_the_consumers():
    assert list(consumers(trace_tiny(Separable))) == ["squeeze", "excite", "project", "classifier"]
    assert list(consumers(trace_tiny(Grouped))) == ["classifier"]


def test_a_layer_that_is_called_twice_is_captured_twice():
    reconstruction = Reconstruction(trace_tiny(Shared))
    reconstruction.observe(torch.randn(3, 3, 8, 8), generator())
    assert reconstruction.samples == {"again": 2 * 3 * POSITIONS, "classifier": 3}


def test_a_layer_that_computes_something_else_only_loses_channels():
    network = dependent_network(SelfPadding(8, 6, 3))
    reconstruction = Reconstruction(network)
    reconstruction.observe(images(8), generator())
    assert reconstruction.samples["1"] == 0 < reconstruction.samples["5"]
    before = network.model[1].weight.detach().clone()
    reconstruction.refit(first_four(network))
    assert torch.equal(network.model[1].weight[:, :4], before[:, :4])
    assert not network.model[1].weight[:, 4:].any()


def test_weights_are_restored_bit_for_bit_and_nothing_else_is_touched():
    network = trace_tiny(Chain)
    network.model.train()
    before = {name: t.clone() for name, t in network.model.state_dict().items()}
    reconstruction = Reconstruction(network)
    reconstruction.observe(torch.randn(8, 3, 8, 8), generator())
    assert network.model.training
    kept = np.arange(network.unit_count) % 2 == 0
    with reconstruction.refitted(kept):
        now = network.model.state_dict()
        changed = [name for name in before if not torch.equal(now[name], before[name])]
        assert changed == ["classifier.weight", "conv2.weight"]
        assert not now["conv2.weight"][1::2].any()
        assert not now["conv2.weight"][:, 1::2].any()
    now = network.model.state_dict()
    assert [name for name in before if not torch.equal(now[name], before[name])] == []


def test_units_score_by_the_weights_that_read_them_over_all_their_consumers():
    network = trace_tiny(Chain)
    with torch.no_grad():
        network.model.conv2.weight.fill_(-0.01)
        network.model.conv2.weight[:, 3] = 0.04
        network.model.classifier.weight.copy_(torch.arange(12.0).expand(5, 12))
    scores = input_scores(network)
    # One channel in eight weighs four times as much as the others: their mean is 11/8.
    assert scores[:8] == pytest.approx([8 / 11] * 3 + [32 / 11] + [8 / 11] * 4)
    assert scores[8:] == pytest.approx(np.arange(12) / 5.5)


def test_the_scores_of_several_consumers_add_up_and_none_is_not_a_number():
    network = trace_tiny(Separable)
    with torch.no_grad():
        network.model.squeeze.weight.fill_(1.0)
        network.model.project.weight.fill_(0.01)
        network.model.project.weight[:, 0] = 0.0
    stem = next(group for group in network.prunable if group.name == "stem")
    scores = input_scores(network)[stem.first : stem.first + 8]
    assert scores == pytest.approx([1.0] + [1.0 + 8 / 7] * 7)
    kept = trace_tiny(Grouped)
    network = trace_network(
        nn.Sequential(
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 8, 3, groups=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        NetworkSpec("unread", 1.0, 8, (3, 8, 8)),
    )
    assert np.isnan(input_scores(network)).all()
    assert not np.isnan(input_scores(kept)).any()
