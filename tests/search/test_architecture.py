"""The architecture parameters: the budget loss alone takes E[MACs] into the band."""

from __future__ import annotations

import math

import pytest
import torch
from search_problems import PAPER_ROWS, chain_network, macs_limits, paper_network, small_network
from torch import Tensor

from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.search.architecture import Architecture
from dmcp_deploy.search.budget_loss import BAND, budget_loss
from dmcp_deploy.search.costs.limits import Limit, Limits
from dmcp_deploy.search.costs.macs import MacsCost
from dmcp_deploy.search.costs.params import ParamsCost
from dmcp_deploy.search.space import search_space

CPU = torch.device("cpu")
STEPS = 120
LR, WEIGHT = 0.5, 0.1  # of every recipe


def architecture(network: Network, budget_macs: int, transition: str = "exp") -> Architecture:
    return Architecture(search_space(network), macs_limits(network, budget_macs), transition, CPU)


def follow_budget(arch: Architecture, steps: int = STEPS) -> list[float]:
    """Moves the alphas by the budget loss alone; returns E[MACs] / budget before every step."""
    shares = []
    for step in range(steps):
        lr = LR * (1 + math.cos(math.pi * step / steps)) / 2
        loss = WEIGHT * budget_loss(arch.expected_share())
        shares.append(arch.move(loss, lr))
    return shares


def final_share(arch: Architecture) -> float:
    return float(arch.expected_share().detach())


@pytest.mark.parametrize(("model", "width_mult", "budget_macs"), PAPER_ROWS)
def test_expected_macs_end_in_the_band_for_every_budget_of_the_paper(
    model, width_mult, budget_macs
):
    network = paper_network(model, width_mult)
    arch = architecture(network, budget_macs)
    shares = follow_budget(arch)
    assert shares[0] == pytest.approx(NetworkCost(network).full_macs / budget_macs)
    assert BAND[0] <= final_share(arch) <= BAND[1]
    assert min(shares) > 0.9, "it shot below the band on its way"


@pytest.mark.parametrize("budget_macs", [1_000_000, 450_000, 200_000])
def test_it_arrives_at_budgets_around_a_million(budget_macs):
    arch = architecture(small_network(), budget_macs)
    follow_budget(arch)
    assert BAND[0] <= final_share(arch) <= BAND[1]


def test_it_arrives_at_a_budget_of_four_billion():
    budget_macs = 4_000_000_000
    arch = architecture(paper_network("resnet50"), budget_macs)
    shares = follow_budget(arch)
    assert shares[0] > 1.02
    assert BAND[0] <= final_share(arch) <= BAND[1]


class LargerCost(MacsCost):
    """Every multiply-add counts 1024 times."""

    def expected(self, probabilities: Tensor) -> Tensor:
        return 1024 * super().expected(probabilities)


def test_the_scale_of_the_macs_makes_no_difference():
    network, budget_macs = small_network(), 450_000
    plain = architecture(network, budget_macs)
    larger = LargerCost(NetworkCost(network), search_space(network))
    limits = Limits((Limit(larger, 1024 * budget_macs, ""),))
    scaled = Architecture(search_space(network), limits, "exp", CPU)
    assert follow_budget(plain, 40) == follow_budget(scaled, 40)
    assert torch.equal(plain.alphas, scaled.alphas)
    assert plain.alphas.detach().max() > 0.1


def test_of_two_budgets_both_are_kept():
    network = small_network()
    accounting, space = NetworkCost(network), search_space(network)
    macs, params = MacsCost(accounting, space), ParamsCost(accounting, space)
    tight = Limit(params, 0.3 * params.at(space.full), "30%")
    for share in (0.2, 0.9):  # of the multiply-adds: the tighter budget, and the looser
        limits = Limits((Limit(macs, share * macs.at(space.full), ""), tight))
        arch = Architecture(space, limits, "exp", CPU)
        follow_budget(arch)
        widths = arch.width_probabilities().detach()
        shares = [float(li.cost.expected(widths)) / li.most for li in limits.limits]
        assert max(shares) == final_share(arch)
        assert BAND[0] <= max(shares) <= BAND[1]
        assert shares.index(max(shares)) == (0 if share == 0.2 else 1)


def test_budgets_that_nothing_reaches_leave_the_narrowest_network():
    network = small_network()
    cost, space = NetworkCost(network), search_space(network)
    narrowest = cost.macs(space.minimum)
    arch = architecture(network, narrowest // 2)
    follow_budget(arch)
    assert 2 < final_share(arch) < 2.6


@pytest.mark.parametrize(
    ("share", "value", "gradient"),
    [
        (2.0, math.log(1.05), 1 / 1.05),
        (1.0, math.log(0.05), 1 / 0.05),
        (0.999, 0.0, 0.0),
        (0.95, 0.0, 0.0),
        (0.9, math.log(0.1 / 0.9), -1 / (0.1 * 0.9)),
        (0.2, math.log(0.8 / 0.2), -1 / (0.8 * 0.2)),
    ],
)
def test_the_budget_loss_is_that_of_the_formula(share, value, gradient):
    shares = torch.tensor(share, dtype=torch.float64, requires_grad=True)
    loss = budget_loss(shares)
    (slope,) = torch.autograd.grad(loss, shares)
    assert float(loss.detach()) == pytest.approx(value)
    assert float(slope) == pytest.approx(gradient)


def test_exp_starts_at_the_full_network():
    network = small_network()
    arch = architecture(network, 450_000)
    assert final_share(arch) == NetworkCost(network).full_macs / 450_000
    assert torch.equal(arch.gates(), torch.ones(network.unit_count, dtype=torch.float64))
    full = search_space(network).full.tolist()
    assert arch.expected_units().tolist() == full


def test_a_step_never_goes_far_and_stays_where_alphas_mean_probabilities():
    network, budget_macs = small_network(), 450_000
    arch = architecture(network, budget_macs)
    before = final_share(arch)
    for sign in (1.0, 1.0, -1.0):
        arch.move(sign * 1000 * arch.expected_share(), lr=5.0)
        after = final_share(arch)
        allowed = max(0.01, 0.25 * abs(before - 0.975))
        assert abs(after - before) <= allowed * (1 + 1e-9)
        assert (arch.alphas >= 0).all()
        before = after


def outward(arch: Architecture) -> Tensor:
    """A task loss that is as good as it can be where the network is whole."""
    return -torch.log(arch.expected_share())


@pytest.mark.parametrize("transition", ["exp", "sigmoid"])
def test_no_task_loss_holds_the_search_outside_the_band(transition):
    """Of the two pulls the task's is ten times the budget's."""
    arch, held = (architecture(small_network(), 200_000, transition) for _ in range(2))
    for step in range(STEPS):
        lr = LR * (1 + math.cos(math.pi * step / STEPS)) / 2
        arch.move(WEIGHT * budget_loss(arch.expected_share()), lr, outward(arch))
        held.move(WEIGHT * budget_loss(held.expected_share()) + outward(held), lr)
    assert BAND[0] <= final_share(arch) <= BAND[1] + 0.02
    assert final_share(held) > 2


def at_share(share: float) -> Architecture:
    """All probabilities alike, with a budget of which the expected cost is a share."""
    network, arches = small_network(), []
    for budget_macs in (1_000_000, None):
        arch = architecture(
            network, budget_macs or round(final_share(arches[0]) / share * 1e6), "sigmoid"
        )
        arch.alphas.data.fill_(1.0)
        arches.append(arch)
    return arches[1]


@pytest.mark.parametrize(
    ("share", "rise", "is_kept"),
    [
        (2.0, -1.0, False),
        (2.0, 1.0, True),
        (0.97, 1.0, True),
        (0.97, -1.0, True),
        (0.5, 1.0, False),
        (0.5, -1.0, True),
    ],
)
def test_outside_the_band_a_task_only_moves_channels_between_groups(share, rise, is_kept):
    arch = at_share(share)
    assert final_share(arch) == pytest.approx(share, rel=1e-4)
    (slope,) = torch.autograd.grad(arch.expected_share(), [arch.alphas])
    noise = torch.rand(slope.shape, generator=torch.Generator().manual_seed(0)).double()
    across = noise - slope * (noise * slope).sum() / (slope * slope).sum()
    left = arch._inward(across + rise * slope)
    assert torch.allclose(left, across + rise * slope if is_kept else across)


def test_it_goes_on_from_where_its_tensors_say():
    network, budget_macs = small_network(), 450_000
    whole, first, second = (architecture(network, budget_macs) for _ in range(3))
    follow_budget(whole, 8)
    for step in range(8):
        arch = first if step < 4 else second
        if step == 4:
            second.load({name: tensor.clone() for name, tensor in first.tensors().items()})
        lr = LR * (1 + math.cos(math.pi * step / 8)) / 2
        arch.move(WEIGHT * budget_loss(arch.expected_share()), lr)
    assert torch.equal(whole.alphas, second.alphas)
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, second.tensors()[name])


def test_padding_never_moves():
    arch = architecture(chain_network([20, 3, 9]), 500)
    follow_budget(arch, 10)
    assert (arch.alphas[~search_space(chain_network([20, 3, 9])).mask] == 0).all()
    assert (arch.alphas[search_space(chain_network([20, 3, 9])).mask] > 0).all()
