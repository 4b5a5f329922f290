"""The widths on offer, against the numbers of DMCP's release."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from search_problems import chain_network, paper_network
from torch import nn

from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search import markov
from dmcp_deploy.search.space import search_space


def row(space, name: str) -> tuple[int, int, int]:
    group = space.names.index(name)
    return tuple(int(values[group]) for values in (space.minimum, space.step, space.count))


def test_mobilenet_1_5_has_14_steps_in_each_of_its_25_groups():
    # (1.5 - 0.1) / 0.1 is 13.999999999999998 in floating point.
    space = search_space(paper_network("mobilenet_v2", 1.5))
    assert len(space.names) == 25
    assert set(space.count.tolist()) == {14}
    assert row(space, "features.0.0") == (48 - 14 * 3, 3, 14)
    assert row(space, "features.1.conv.1") == (24 - 14 * 1, 1, 14)
    assert row(space, "features.18.0") == (1920 - 14 * 128, 128, 14)


def test_resnets_have_9_steps():
    space = search_space(paper_network("resnet18"))
    assert len(space.names) == 12
    assert set(space.count.tolist()) == {9}
    assert row(space, "conv1") == (64 - 9 * 6, 6, 9)
    assert row(space, "layer4.0.conv1") == (512 - 9 * 51, 51, 9)


def test_a_finer_offset_makes_more_steps():
    space = search_space(chain_network([100, 40]), offset=0.05)
    assert space.count.tolist() == [18, 18]
    assert space.step.tolist() == [5, 2]


@pytest.mark.parametrize(
    ("channels", "minimum", "step", "count"),
    [
        (2, 1, 1, 1),
        (5, 1, 1, 4),
        (9, 1, 1, 8),
        (10, 1, 1, 9),
        (15, 6, 1, 9),
        (20, 2, 2, 9),
        (30, 3, 3, 9),
        (99, 18, 9, 9),
    ],
)
def test_small_groups_narrow_by_single_channels(channels, minimum, step, count):
    space = search_space(chain_network([channels, 64]))
    assert row(space, "0") == (minimum, step, count)


def test_a_group_of_one_channel_stays_whole():
    network = chain_network([1, 64])
    assert network.sizes() == {"0": 1, "1": 64}
    assert search_space(network).names == ("1",)


def test_groups_without_a_step_stay_whole():
    space = search_space(chain_network([20, 3]), min_width=0.95)
    assert space.count.tolist() == [0, 0]
    assert space.minimum.tolist() == space.full.tolist() == [20, 3]
    assert not space.mask.any()
    m = markov.marginal(markov.transition(torch.zeros(space.mask.shape), space.mask))
    assert torch.equal(markov.unit_gates(m, space.unit_steps), torch.ones(23))


def grouped_network():
    """Three convolution groups: 4 input and 8 output channels of each live or go together."""
    model = nn.Sequential(
        nn.Conv2d(3, 12, 1),
        nn.Conv2d(12, 24, 3, padding=1, groups=3),
        nn.ReLU(),
        nn.Conv2d(24, 20, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(20, 2),
    )
    return trace_network(model, NetworkSpec("grouped", 1.0, 2, (3, 8, 8)))


def test_channels_that_go_together_are_stepped_in_units():
    network = grouped_network()
    space = search_space(network)
    assert all(group.size == group.unit * group.units for group in network.prunable)
    grouped = [g for g in network.prunable if g.unit > 1]
    assert grouped
    for group in grouped:
        assert row(space, group.name) == (1, 1, 2)
    widths = space.widths(space.minimum)
    for group in network.prunable:
        assert widths[group.name] % group.unit == 0
    assert Supernet(network)(torch.randn(2, 3, 8, 8), widths).shape == (2, 2)


def test_full_and_minimum_are_the_ends_of_the_grid():
    network = chain_network([37, 64, 3])
    space = search_space(network)
    assert space.full.tolist() == [37, 64, 3]
    assert space.units(space.count).tolist() == [37, 64, 3]
    assert space.units(np.zeros(3, dtype=int)).tolist() == space.minimum.tolist()
    assert space.widths(space.full) == network.sizes()


def test_unit_steps_name_the_marginal_of_every_unit():
    space = search_space(chain_network([20, 3]))  # 2 + 9 x 2 and 1 + 2 x 1
    row_length = space.mask.shape[1] + 1
    first = [0, 0, *(k for k in range(1, 10) for _ in range(2))]
    second = [row_length + k for k in (0, 1, 2)]
    assert space.unit_steps.tolist() == first + second
    assert space.mask.sum(1).tolist() == [9, 2]


def test_random_widths_are_uniform_over_the_grid_of_each_group():
    space = search_space(chain_network([20, 3]))
    generator = torch.Generator().manual_seed(0)
    drawn = np.array([space.random_units(generator) for _ in range(6000)])
    for group in range(2):
        choices = space.count[group] + 1
        values, counts = np.unique(drawn[:, group], return_counts=True)
        on_offer = space.minimum[group] + space.step[group] * np.arange(choices)
        assert values.tolist() == on_offer.tolist()
        share = 1 / choices
        deviation = (share * (1 - share) / len(drawn)) ** 0.5
        assert np.abs(counts / len(drawn) - share).max() <= 4.5 * deviation


def test_random_widths_are_drawn_apart_for_every_group():
    space = search_space(chain_network([20, 20]))
    generator = torch.Generator().manual_seed(0)
    drawn = np.array([space.random_units(generator) for _ in range(2000)])
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.1
