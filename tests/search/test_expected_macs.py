"""E[MACs] is the mean MACs of sampled plans, and its gradient is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from search_problems import small_network
from torch import Tensor, nn

from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.graph import Network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search import markov
from dmcp_deploy.search.space import SearchSpace, search_space
from dmcp_deploy.training.recipe import TRANSITIONS

DRAWS = 3000


class InnerResidual(nn.Module):
    """A convolution whose input and output are one group: its MACs go with the square of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 30, 3, padding=1)
        self.inner = nn.Conv2d(30, 30, 3, padding=1)
        self.hidden = nn.Conv2d(30, 20, 1)
        self.back = nn.Conv2d(20, 30, 1)
        self.classifier = nn.Linear(30, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = x + self.inner(x)
        x = x + self.back(self.hidden(x))
        return self.classifier(x.mean((2, 3)))


def residual_network() -> Network:
    return trace_network(InnerResidual(), NetworkSpec("residual", 1.0, 2, (3, 8, 8)))


def some_probabilities(space: SearchSpace, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    alphas = 0.3 * torch.rand(space.mask.shape, generator=generator, dtype=torch.float64)
    return markov.transition(alphas, space.mask)


def moments(space: SearchSpace, p: Tensor) -> tuple[Tensor, Tensor]:
    minimum, step = torch.from_numpy(space.minimum), torch.from_numpy(space.step)
    return markov.width_moments(
        markov.width_probabilities(markov.marginal(p)), minimum.double(), step.double()
    )


def sampled_macs(cost: NetworkCost, space: SearchSpace, p: Tensor) -> np.ndarray:
    generator = torch.Generator().manual_seed(5)
    draws = (markov.sample_steps(p, generator).numpy() for _ in range(DRAWS))
    return np.array([cost.macs(space.units(steps)) for steps in draws])


@pytest.mark.parametrize("make", [residual_network, small_network])
def test_the_expectation_is_the_mean_of_sampled_plans(make):
    network = make()
    cost, space = NetworkCost(network), search_space(network)
    p = some_probabilities(space)
    mean, variance = moments(space, p)
    macs = sampled_macs(cost, space, p)
    error = macs.std() / DRAWS**0.5
    assert abs(macs.mean() - float(cost.multiply_adds.expected(mean, variance))) <= 4 * error


def test_without_the_variance_of_shared_groups_it_would_not_be():
    network = residual_network()
    cost, space = NetworkCost(network), search_space(network)
    p = some_probabilities(space)
    mean, variance = moments(space, p)
    macs = sampled_macs(cost, space, p)
    naive = float(cost.multiply_adds.expected(mean, torch.zeros_like(variance)))
    assert macs.mean() - naive > 8 * macs.std() / DRAWS**0.5


@pytest.mark.parametrize("kind", TRANSITIONS)
def test_its_gradient_with_respect_to_the_alphas_is_right(kind):
    network = residual_network()
    cost, space = NetworkCost(network), search_space(network)

    def share(alphas: Tensor) -> Tensor:
        p = markov.transition(alphas, space.mask, kind)
        return cost.multiply_adds.expected(*moments(space, p)) / cost.full_macs

    generator = torch.Generator().manual_seed(0)
    alphas = torch.rand(space.mask.shape, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(share, (alphas.requires_grad_(),))
