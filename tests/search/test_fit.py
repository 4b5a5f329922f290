"""From wanted widths to plans: the budget met, the grid kept, on every network of the paper."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from search_problems import PAPER_ROWS, chain_network, macs_limits, paper_network, small_network

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.plan import LOWEST_SHARE
from dmcp_deploy.search.fit import check_reachable, fit_widths, width_grid
from dmcp_deploy.search.space import search_space


def wanted_widths(full: np.ndarray) -> list[np.ndarray]:
    """Uniform, and random vectors: some mild, some that want one group alone."""
    generator = np.random.default_rng(0)
    mild = [full * generator.uniform(0.1, 1.0, len(full)) for _ in range(4)]
    wild = [full * np.exp(generator.normal(0, 1.5, len(full))) for _ in range(4)]
    return [full.astype(np.float64), *mild, *wild]


def assert_on_grid(units: np.ndarray, network: Network, align: int) -> None:
    space = search_space(network)
    for group, kept in zip(network.prunable, units, strict=True):
        assert 1 <= kept <= group.units
        if group.size > align:
            assert kept * group.unit % align == 0 or kept == group.units
    assert (units >= np.minimum(space.minimum, width_grid(space, align).low)).all()


@pytest.mark.parametrize("align", [1, 8, 16])
@pytest.mark.parametrize(("model", "width_mult", "budget_macs"), PAPER_ROWS)
def test_plans_end_just_below_every_budget_of_the_paper(model, width_mult, budget_macs, align):
    network = paper_network(model, width_mult)
    cost, space = NetworkCost(network), search_space(network)
    grid = width_grid(space, align)
    check_reachable(macs_limits(network, budget_macs), grid)
    for wanted in wanted_widths(space.full):
        units = fit_widths(macs_limits(network, budget_macs), grid, wanted)
        assert_on_grid(units, network, align)
        assert LOWEST_SHARE * budget_macs <= cost.macs(units) <= budget_macs


@pytest.mark.parametrize("model", ["resnet18", "alexnet"])
def test_coarse_grids_are_filled_by_exchanges(model):
    # Few groups and wide steps: raising single groups ends up to 13% below these budgets.
    network = paper_network(model)
    cost, space = NetworkCost(network), search_space(network)
    grid = width_grid(space, 32)
    lowest, highest = cost.macs(grid.low), cost.macs(grid.high)
    for number, share in enumerate(np.linspace(0.1, 0.95, 40)):
        budget_macs = int(lowest + share * (highest - lowest))
        wanted = wanted_widths(space.full)[number % 9]
        units = fit_widths(macs_limits(network, budget_macs), grid, wanted)
        assert_on_grid(units, network, 32)
        assert LOWEST_SHARE * budget_macs <= cost.macs(units) <= budget_macs


def test_a_plan_keeps_the_proportions_that_were_wanted():
    network = paper_network("resnet18")
    space = search_space(network)
    wanted = space.full * np.linspace(0.9, 0.3, len(space.full))
    units = fit_widths(macs_limits(network, 700_000_000), width_grid(space, 1), wanted)
    ratio = units / wanted
    assert ratio.max() / ratio.min() < 1.08


def tiny() -> tuple[Network, NetworkCost]:
    network = chain_network([6, 9, 5])
    return network, NetworkCost(network)


@pytest.mark.parametrize("align", [1, 2, 4])
def test_on_a_tiny_network_no_plan_is_missed(align):
    network, cost = tiny()
    space = search_space(network)
    grid = width_grid(space, align)
    plans = itertools.product(*grid.axes())
    possible = np.sort([cost.macs(np.array(plan)) for plan in plans])
    for budget_macs in np.linspace(possible[0], cost.full_macs, 25).astype(int):
        nearest = int(possible[possible <= budget_macs].max())
        for wanted in wanted_widths(space.full):
            found = cost.macs(fit_widths(macs_limits(network, int(budget_macs)), grid, wanted))
            assert found <= budget_macs
            assert found >= min(nearest, LOWEST_SHARE * budget_macs)


def test_a_tiny_grid_holds_the_nearest_of_all_plans_in_the_band():
    network, cost = tiny()
    grid = width_grid(search_space(network), 1)
    plans = [np.array(plan) for plan in itertools.product(*grid.axes())]
    for budget_macs in (387, 570, 600, 1515):  # neither filling nor exchanges reach these
        band = [p for p in plans if LOWEST_SHARE * budget_macs <= cost.macs(p) <= budget_macs]
        found = fit_widths(macs_limits(network, budget_macs), grid, np.array([6.0, 9.0, 5.0]))
        assert any(np.array_equal(found, plan) for plan in band)


def test_the_full_network_is_the_plan_for_its_own_macs():
    # The Caffe LeNet's widths, none of which 8 divides, beside a MobileNet's.
    for network in (chain_network([20, 50, 500]), small_network()):
        cost, space = NetworkCost(network), search_space(network)
        for align in (1, 8, 16):
            grid = width_grid(space, align)
            for wanted in wanted_widths(space.full):
                units = fit_widths(macs_limits(network, cost.full_macs), grid, wanted)
                assert units.tolist() == space.full.tolist()


def test_widths_that_8_does_not_divide_come_near_every_budget():
    network = chain_network([20, 50, 500])
    cost, space = NetworkCost(network), search_space(network)
    grid = width_grid(space, 8)
    for wanted in wanted_widths(space.full):
        budget_macs = int(0.95 * cost.full_macs)
        units = fit_widths(macs_limits(network, budget_macs), grid, wanted)
        assert_on_grid(units, network, 8)
        assert LOWEST_SHARE * budget_macs <= cost.macs(units) <= budget_macs


def test_a_grid_goes_up_and_down_over_a_full_width_that_is_no_multiple():
    grid = width_grid(search_space(chain_network([20])), 8)
    assert grid.axes() == [[8, 16, 20]]
    on_offer = [grid.nearest(np.array([w])).item() for w in (1, 11.9, 12, 17.9, 18, 90)]
    assert on_offer == [8, 8, 16, 16, 20, 20]
    steps = {s: grid.moved(np.array([16]), 0, s) for s in (-2, -1, 0, 1, 2)}
    assert {s: None if p is None else p.item() for s, p in steps.items()} == {
        -2: None,
        -1: 8,
        0: 16,
        1: 20,
        2: None,
    }
    assert grid.moved(np.array([20]), 0, -2).tolist() == [8]


def test_the_narrowest_network_is_the_plan_for_its_own_macs():
    network = small_network()
    cost, space = NetworkCost(network), search_space(network)
    for align in (1, 8, 16):
        grid = width_grid(space, align)
        units = fit_widths(
            macs_limits(network, cost.macs(grid.low)), grid, space.full.astype(np.float64)
        )
        assert np.array_equal(units, grid.low)


@pytest.mark.parametrize(
    ("model", "budget_macs", "align", "range_text"),
    [
        ("mobilenet_v2", 1_000_000, 1, "from 10.4M to 300.8M"),
        ("mobilenet_v2", 1_000_000, 8, "from 14.7M to 300.8M"),
        ("mobilenet_v2", 300_774_273, 1, "from 10.4M to 300.8M"),
        ("resnet18", 2_000_000_000, 8, "to 1.81G"),
    ],
)
def test_budgets_out_of_reach_are_told_the_range(model, budget_macs, align, range_text):
    network = paper_network(model)
    cost, space = NetworkCost(network), search_space(network)
    with pytest.raises(DmcpError, match="choose one from") as error:
        check_reachable(macs_limits(network, budget_macs), width_grid(space, align))
    assert range_text in str(error.value)
    lowest = float(re.search(r"which is ([\d.]+)% to 100% of", str(error.value)).group(1))
    assert lowest / 100 * cost.full_macs >= cost.macs(width_grid(space, align).low)
    assert (lowest - 0.1) / 100 * cost.full_macs < cost.macs(width_grid(space, align).low)
    assert str(cost.full_macs) in str(error.value)


def test_the_ends_of_the_range_are_reachable():
    network = small_network()
    cost = NetworkCost(network)
    grid = width_grid(search_space(network), 8)
    check_reachable(macs_limits(network, cost.macs(grid.low)), grid)
    check_reachable(macs_limits(network, cost.full_macs), grid)
    with pytest.raises(DmcpError, match="below the narrowest"):
        check_reachable(macs_limits(network, cost.macs(grid.low) - 1), grid)


@pytest.mark.parametrize(
    ("channels", "align", "expected"),
    [
        (64, 8, (16, 64, 8)),
        (20, 8, (8, 20, 8)),
        (8, 8, (1, 8, 1)),
        (5, 8, (1, 5, 1)),
        (64, 1, (10, 64, 1)),
        (9, 16, (1, 9, 1)),
    ],
)
def test_the_grid_of_one_group(channels, align, expected):
    grid = width_grid(search_space(chain_network([channels])), align)
    assert (int(grid.low[0]), int(grid.high[0]), int(grid.step[0])) == expected


def test_of_many_widths_some_are_spread_from_the_narrowest_to_the_full():
    grid = width_grid(search_space(chain_network([500, 20])), 8)
    many, few = grid.spread_axes(most=10)
    assert len(many) == 10
    assert (many[0], many[-1]) == (grid.low[0], 500)
    assert set(many.tolist()) <= set(grid.axes()[0])
    assert np.diff(many).max() <= 56
    assert few.tolist() == grid.axes()[1]
