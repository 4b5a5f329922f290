"""The mathematics of the Markov process, against counting and against draws."""

from __future__ import annotations

import itertools

import pytest
import torch
from closeness import assert_same
from torch import Tensor

from dmcp_deploy.search import markov
from dmcp_deploy.training.recipe import TRANSITIONS

DRAWS = 20_000
COUNTS = (6, 1, 4, 0, 3)  # steps of each group
MASK = torch.arange(6)[None, :] < torch.tensor(COUNTS)[:, None]
MINIMUM = torch.tensor([2.0, 1.0, 5.0, 7.0, 3.0], dtype=torch.float64)
STEP = torch.tensor([2.0, 1.0, 3.0, 1.0, 4.0], dtype=torch.float64)


def some_alphas(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(MASK.shape, generator=generator, dtype=torch.float64)


def some_probabilities(seed: int = 0) -> Tensor:
    return markov.transition(some_alphas(seed), MASK)


@pytest.mark.parametrize("kind", TRANSITIONS)
def test_transitions_follow_their_formula_and_padding_is_never_kept(kind):
    alphas = some_alphas()
    formula = {"exp": torch.exp(-alphas), "sigmoid": 1 / (1 + torch.exp(-alphas))}[kind]
    p = markov.transition(alphas, MASK, kind)
    assert_same(p[MASK], formula[MASK], precision="fp64")
    assert (p[~MASK] == 0).all()


def test_marginals_are_the_frequencies_of_draws():
    p = some_probabilities()
    drawn = markov.sample_steps(p.repeat(DRAWS, 1), torch.Generator().manual_seed(1))
    kept = drawn.view(DRAWS, len(p), 1) > torch.arange(p.shape[1])
    expected = markov.marginal(p)
    deviation = (expected * (1 - expected) / DRAWS).sqrt()
    assert ((kept.double().mean(0) - expected).abs() <= 4.5 * deviation).all()


def test_draws_depend_on_the_generator_alone():
    p = some_probabilities()
    first, second = (markov.sample_steps(p, torch.Generator().manual_seed(seed)) for seed in (3, 3))
    torch.manual_seed(0)
    assert torch.equal(first, second)


def test_the_probabilities_of_all_widths_add_up_to_one():
    found = markov.width_probabilities(markov.marginal(some_probabilities()))
    assert (found >= 0).all()
    assert_same(found.sum(1), [1.0] * len(COUNTS), precision="fp64", roundings=found.shape[1])
    for group, count in enumerate(COUNTS):
        assert (found[group, count + 1 :] == 0).all()


def test_moments_are_those_of_counting_every_way_to_keep_steps():
    p = some_probabilities()
    mean, variance = markov.width_moments(
        markov.width_probabilities(markov.marginal(p)), MINIMUM, STEP
    )
    for group, count in enumerate(COUNTS):
        first = second = 0.0
        for kept in itertools.product((True, False), repeat=count):
            chance = 1.0
            for k, keep in enumerate(kept):
                chance *= float(p[group, k]) if keep else 1 - float(p[group, k])
            in_a_row = len(list(itertools.takewhile(bool, kept)))
            width = float(MINIMUM[group] + STEP[group] * in_a_row)
            first += chance * width
            second += chance * width**2
        assert float(mean[group]) == pytest.approx(first)
        ways = {"roundings": 2**count, "precision": "fp64"}
        assert_same(variance[group], second - first**2, scale=second, **ways)


def test_alphas_at_zero_get_a_gradient_although_probabilities_end_there():
    alphas = torch.zeros(MASK.shape, dtype=torch.float64, requires_grad=True)
    marginal = markov.marginal(markov.transition(alphas, MASK))
    mean, _ = markov.width_moments(markov.width_probabilities(marginal), MINIMUM, STEP)
    assert (torch.autograd.grad(mean.sum(), alphas)[0][MASK] < 0).all()


def test_projection_returns_exp_alphas_to_where_they_mean_a_probability():
    values = torch.tensor([[-0.5, 0.0, 0.7]])
    for kind, expected in (("exp", [[0.0, 0.0, 0.7]]), ("sigmoid", [[-0.5, 0.0, 0.7]])):
        alphas = values.clone()
        markov.project(alphas, kind)
        assert torch.equal(alphas, torch.tensor(expected))


def test_gates_are_one_for_channels_always_kept_and_else_the_marginal_of_their_step():
    m = torch.tensor([[0.8, 0.4], [0.5, 0.0]])
    # Two groups: 2 + 2 x 2 units, and 1 + 1 x 1 units, in rows [1, m1, m2].
    unit_steps = torch.tensor([0, 0, 1, 1, 2, 2, 3, 4])
    expected = torch.tensor([1.0, 1.0, 0.8, 0.8, 0.4, 0.4, 1.0, 0.5])
    assert torch.equal(markov.unit_gates(m, unit_steps), expected)


@pytest.mark.parametrize("kind", TRANSITIONS)
def test_gradients_of_moments_and_gates_are_right(kind):
    unit_steps = torch.tensor([0, 1, 2, 6, 7, 8, 15, 16])

    def outputs(alphas: Tensor) -> tuple[Tensor, ...]:
        m = markov.marginal(markov.transition(alphas, MASK, kind))
        moments = markov.width_moments(markov.width_probabilities(m), MINIMUM, STEP)
        return *moments, markov.unit_gates(m, unit_steps)

    assert torch.autograd.gradcheck(outputs, (some_alphas().requires_grad_(),))
