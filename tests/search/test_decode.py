"""Decoding under limits: the best of all plans on small cases, seconds on full-size networks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from random_costs import TableCost, bell_worth, offered_widths, random_case, staircase
from search_problems import paper_network

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.search.costs.limits import Limit, Limits
from dmcp_deploy.search.costs.macs import MacsCost
from dmcp_deploy.search.costs.protocol import Term
from dmcp_deploy.search.decode import decode
from dmcp_deploy.search.space import search_space


def all_plans(
    limits: Limits, axes: Sequence[np.ndarray], worth: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the worth and the largest share of a limit of every plan there is."""
    plans = np.array(list(itertools.product(*(range(len(axis)) for axis in axes))))
    worths = sum(row[plans[:, group]] for group, row in enumerate(worth))
    units = np.stack([axis[plans[:, group]] for group, axis in enumerate(axes)], axis=1)
    return worths, np.array([limits.share(row) for row in units])


def best_worth(limits: Limits, axes: Sequence[np.ndarray], worth: Sequence[np.ndarray]) -> float:
    """Returns the highest worth of all plans within limits."""
    worths, shares = all_plans(limits, axes, worth)
    return float(worths[shares <= 1.0].max())


@pytest.mark.parametrize("limits", [1, 2, 3])
@pytest.mark.parametrize("shape", ["chain", "star", "dense"])
def test_the_plan_is_the_best_of_all_on_small_cases(shape, limits):
    generator = np.random.default_rng([limits, len(shape)])
    for _ in range(25):
        case = random_case(generator, shape, limits)
        decoded = decode(*case)
        assert decoded.is_proven
        assert decoded.worth == pytest.approx(best_worth(*case), abs=1e-9)
        assert case[0].is_met(decoded.units)
        assert decoded.share == case[0].share(decoded.units)


@pytest.mark.parametrize("limits", [1, 2])
def test_a_budget_is_used_wherever_a_plan_can(limits):
    generator, used = np.random.default_rng(4), 0
    for _ in range(40):
        case = random_case(generator, "star", limits)
        decoded = decode(*case, least=0.9)
        worths, shares = all_plans(*case)
        floor = next(f for f in (0.9, 0.8, 0.6, 0.2, 0.0) if ((f <= shares) & (shares <= 1)).any())
        best = worths[(floor <= shares) & (shares <= 1.0)].max()
        assert decoded.is_proven
        assert decoded.worth == pytest.approx(best, abs=1e-9)
        assert decoded.share <= 1.0
        used += best < worths[shares <= 1.0].max() - 1e-9
    assert used > 5


def test_what_decoding_tells_of_its_plan_is_the_plans():
    limits, axes, worth = random_case(np.random.default_rng(3), "star", 2)
    decoded = decode(limits, axes, worth)
    places = [int(np.searchsorted(a, u)) for a, u in zip(axes, decoded.units, strict=True)]
    assert [a[k] for a, k in zip(axes, places, strict=True)] == decoded.units.tolist()
    assert decoded.worth == pytest.approx(sum(r[k] for r, k in zip(worth, places, strict=True)))
    assert decoded.bound - decoded.worth <= 1e-9
    again = decode(limits, axes, worth)
    assert again.units.tolist() == decoded.units.tolist()


def test_budgets_that_a_plan_takes_to_the_last_multiply_add_are_met():
    network = paper_network("mobilenet_v2")
    cost = MacsCost(NetworkCost(network), search_space(network))
    axes = offered_widths(search_space(network), 12)
    wanted = np.array([axis[len(axis) // 2] for axis in axes])
    worth = [-np.abs(axis - w) / axis[-1] for axis, w in zip(axes, wanted, strict=True)]
    exact = decode(Limits((Limit(cost, cost.at(wanted), "all"),)), axes, worth)
    assert exact.units.tolist() == wanted.tolist()
    assert exact.share == 1.0
    below = decode(Limits((Limit(cost, cost.at(wanted) - 1, "less"),)), axes, worth)
    assert below.units.tolist() != wanted.tolist()
    assert below.is_proven
    assert 0.99 < below.share <= 1.0


@pytest.mark.parametrize("widths", [12, pytest.param(64, marks=pytest.mark.slow(10))])
@pytest.mark.parametrize("model", ["mobilenet_v2", "resnet50"])
def test_full_size_networks_are_decoded_to_the_end(model, widths):
    network = paper_network(model)
    macs = MacsCost(NetworkCost(network), search_space(network))
    axes = offered_widths(search_space(network), widths)
    full = np.array([axis[-1] for axis in axes])
    for share in (0.6, 0.3):
        generator = np.random.default_rng(0)
        latency, worth = staircase(generator, macs, axes), bell_worth(generator, axes)
        limits = [Limit(cost, share * cost.at(full), "a share") for cost in (latency, macs)]
        for asked in (limits[:1], limits[1:], limits):
            decoded = decode(Limits(tuple(asked)), axes, worth)
            assert decoded.is_proven
            assert decoded.share <= 1.0
            no_better = neighbours(Limits(tuple(asked)), axes, worth, decoded.units)
            assert max(no_better) <= decoded.worth + 1e-9


def neighbours(
    limits: Limits,
    axes: Sequence[np.ndarray],
    worth: Sequence[np.ndarray],
    units: np.ndarray,
) -> list[float]:
    """Returns the worths of the plans within limits that differ in one group."""
    places = [int(np.searchsorted(axis, u)) for axis, u in zip(axes, units, strict=True)]
    total = sum(row[k] for row, k in zip(worth, places, strict=True))
    worths = [total]
    for group, axis in enumerate(axes):
        for k, width in enumerate(axis):
            changed = units.copy()
            changed[group] = width
            if limits.is_met(changed):
                worths.append(total - worth[group][places[group]] + worth[group][k])
    return worths


def test_terms_that_come_near_a_cost_still_give_plans_that_meet_it():
    generator = np.random.default_rng(8)
    for _ in range(20):
        limits, axes, worth = random_case(generator, "chain", 1)
        exact = limits.limits[0].cost
        narrow, wide = (exact.at(np.array([axis[end] for axis in axes])) for end in (0, -1))
        rough = TableCost(exact.parts, axes, wrong=1.07)
        limits = Limits((Limit(rough, 1.07 * narrow + 0.5 * (wide - narrow), "4ms"),))
        decoded = decode(limits, axes, worth)
        assert limits.is_met(decoded.units)
        assert decoded.worth <= best_worth(limits, axes, worth) + 1e-9 <= decoded.bound + 2e-9


class WiderIsDearer(TableCost):
    """A cost whose terms are right for the narrowest plan alone, and say too little of others."""

    exact_terms = False

    def at(self, units: np.ndarray) -> float:
        narrowest = all(unit == axis[0] for unit, axis in zip(units, self.axes, strict=True))
        return super().at(units) * (1.0 if narrowest else 1.5)


def test_the_narrowest_plan_is_found_where_it_alone_meets_a_limit():
    axes = [np.array([8, 16])]
    cost = WiderIsDearer([Term((0,), np.array([2.0, 2.1]))], axes)
    limits = Limits((Limit(cost, 2.2, "2.2ms"),))
    assert decode(limits, axes, [np.array([0.0, 1.0])]).units.tolist() == [8]


def test_when_its_effort_is_spent_the_plan_meets_the_limits_and_the_gap_is_told():
    network = paper_network("resnet50")
    macs = MacsCost(NetworkCost(network), search_space(network))
    axes = offered_widths(search_space(network), 12)
    generator = np.random.default_rng(0)
    worth = bell_worth(generator, axes)
    full = np.array([axis[-1] for axis in axes])
    limits = Limits((Limit(macs, 0.3 * macs.at(full), "30%"),))
    hasty, again = (decode(limits, axes, worth, effort=2e6) for _ in range(2))
    patient = decode(limits, axes, worth)
    assert hasty.units.tolist() == again.units.tolist()
    assert limits.is_met(hasty.units)
    assert not hasty.is_proven
    assert hasty.worth < patient.worth <= hasty.bound


def test_limits_that_no_plan_meets_are_told():
    axes = [np.array([8, 16])]
    cost = TableCost([Term((0,), np.array([2.0, 3.0]))], axes)
    with pytest.raises(DmcpError, match="No plan of the widths on offer meets 1ms"):
        decode(Limits((Limit(cost, 1.0, "1ms"),)), axes, [np.zeros(2)])
