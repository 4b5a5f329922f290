"""The architecture parameters: the budget loss alone takes E[MACs] into the band."""

from __future__ import annotations

import math

import pytest
import torch
from search_problems import PAPER_ROWS, chain_network, paper_network, small_network
from torch import Tensor

from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.search.architecture import Architecture
from dmcp_deploy.search.budget_loss import BAND, budget_loss
from dmcp_deploy.search.space import search_space

CPU = torch.device("cpu")
STEPS = 120
LR, WEIGHT = 0.5, 0.1  # of every recipe


def architecture(network: Network, budget_macs: int, transition: str = "exp") -> Architecture:
    return Architecture(search_space(network), NetworkCost(network), budget_macs, transition, CPU)


def follow_budget(arch: Architecture, budget_macs: int, steps: int = STEPS) -> list[float]:
    """Moves the alphas by the budget loss alone; returns E[MACs] / budget before every step."""
    shares = []
    for step in range(steps):
        lr = LR * (1 + math.cos(math.pi * step / steps)) / 2
        loss = WEIGHT * budget_loss(arch.expected_macs(), budget_macs)
        shares.append(arch.move(loss, lr))
    return shares


def final_share(arch: Architecture, budget_macs: int) -> float:
    return float(arch.expected_macs().detach()) / budget_macs


@pytest.mark.parametrize(("model", "width_mult", "budget_macs"), PAPER_ROWS)
def test_expected_macs_end_in_the_band_for_every_budget_of_the_paper(
    model, width_mult, budget_macs
):
    network = paper_network(model, width_mult)
    arch = architecture(network, budget_macs)
    shares = follow_budget(arch, budget_macs)
    assert shares[0] == pytest.approx(NetworkCost(network).full_macs / budget_macs)
    assert BAND[0] <= final_share(arch, budget_macs) <= BAND[1]
    assert min(shares) > 0.9, "it shot below the band on its way"


@pytest.mark.parametrize("budget_macs", [1_000_000, 450_000, 200_000])
def test_it_arrives_at_budgets_around_a_million(budget_macs):
    arch = architecture(small_network(), budget_macs)
    follow_budget(arch, budget_macs)
    assert BAND[0] <= final_share(arch, budget_macs) <= BAND[1]


def test_it_arrives_at_a_budget_of_four_billion():
    budget_macs = 4_000_000_000
    arch = architecture(paper_network("resnet50"), budget_macs)
    shares = follow_budget(arch, budget_macs)
    assert shares[0] > 1.02
    assert BAND[0] <= final_share(arch, budget_macs) <= BAND[1]


class LargerCost(NetworkCost):
    """The same network where every multiply-add counts 1024 times."""

    def expected_macs(self, mean: Tensor, variance: Tensor) -> Tensor:
        return 1024 * super().expected_macs(mean, variance)


def test_the_scale_of_the_macs_makes_no_difference():
    network, budget_macs = small_network(), 450_000
    plain = architecture(network, budget_macs)
    scaled = Architecture(
        search_space(network), LargerCost(network), 1024 * budget_macs, "exp", CPU
    )
    assert follow_budget(plain, budget_macs, 40) == follow_budget(scaled, 1024 * budget_macs, 40)
    assert torch.equal(plain.alphas, scaled.alphas)
    assert plain.alphas.detach().max() > 0.1


def test_budgets_that_nothing_reaches_leave_the_narrowest_network():
    network = small_network()
    cost, space = NetworkCost(network), search_space(network)
    narrowest = cost.macs(space.minimum)
    arch = architecture(network, narrowest // 2)
    follow_budget(arch, narrowest // 2)
    assert narrowest < float(arch.expected_macs().detach()) < 1.3 * narrowest


@pytest.mark.parametrize(
    ("share", "value", "gradient"),
    [
        (2.0, math.log(1.05), 1 / 1.05),
        (1.0, math.log(0.05), 1 / 0.05),
        (0.999, 0.0, 0.0),
        (0.95, 0.0, 0.0),
        (0.9, math.log(0.1), -1 / 0.1),
        (0.2, math.log(0.8), -1 / 0.8),
    ],
)
def test_the_budget_loss_is_that_of_the_formula(share, value, gradient):
    for budget_macs in (1_000_000, 4_000_000_000):
        macs = torch.tensor(share * budget_macs, dtype=torch.float64, requires_grad=True)
        loss = budget_loss(macs, budget_macs)
        (slope,) = torch.autograd.grad(loss, macs)
        assert float(loss.detach()) == pytest.approx(value)
        assert float(slope) * budget_macs == pytest.approx(gradient)


def test_exp_starts_at_the_full_network():
    network = small_network()
    arch = architecture(network, 450_000)
    assert float(arch.expected_macs().detach()) == NetworkCost(network).full_macs
    assert torch.equal(arch.gates(), torch.ones(network.unit_count, dtype=torch.float64))
    full = search_space(network).full.tolist()
    assert arch.expected_units().tolist() == full


def test_a_step_never_goes_far_and_stays_where_alphas_mean_probabilities():
    network, budget_macs = small_network(), 450_000
    arch = architecture(network, budget_macs)
    before = final_share(arch, budget_macs)
    for sign in (1.0, 1.0, -1.0):
        arch.move(sign * 1000 * arch.expected_macs() / budget_macs, lr=5.0)
        after = final_share(arch, budget_macs)
        allowed = max(0.01, 0.25 * abs(before - 0.975))
        assert abs(after - before) <= allowed * (1 + 1e-9)
        assert (arch.alphas >= 0).all()
        before = after


def test_it_goes_on_from_where_its_tensors_say():
    network, budget_macs = small_network(), 450_000
    whole, first, second = (architecture(network, budget_macs) for _ in range(3))
    follow_budget(whole, budget_macs, 8)
    for step in range(8):
        arch = first if step < 4 else second
        if step == 4:
            second.load({name: tensor.clone() for name, tensor in first.tensors().items()})
        lr = LR * (1 + math.cos(math.pi * step / 8)) / 2
        arch.move(WEIGHT * budget_loss(arch.expected_macs(), budget_macs), lr)
    assert torch.equal(whole.alphas, second.alphas)
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, second.tensors()[name])


def test_padding_never_moves():
    arch = architecture(chain_network([20, 3, 9]), 500)
    follow_budget(arch, 500, 10)
    assert (arch.alphas[~search_space(chain_network([20, 3, 9])).mask] == 0).all()
    assert (arch.alphas[search_space(chain_network([20, 3, 9])).mask] > 0).all()
