"""The Markov process over channel widths: the mathematics alone (DMCP, sections 3.2 and 3.3).

A group with N steps keeps its first channels always, and step k with probability p_k given that
step k-1 is kept. All arrays are padded to K, the largest N: shape [groups, K]; the mask is True
where a group has such a step.
"""

from __future__ import annotations

import torch
from torch import Tensor


def transition(alphas: Tensor, mask: Tensor, kind: str = "exp") -> Tensor:
    """Returns p_k, the probability to keep step k given step k-1, shape [groups, K], in [0, 1].

    "exp" is exp(-alpha) for alpha >= 0 (see `project`), which starts at 1 for alpha = 0;
    "sigmoid" is 1 / (1 + exp(-alpha)). Padding has probability 0.

    Args:
        alphas: The architecture parameters, shape [groups, K].
        mask: True where a group has such a step, shape [groups, K].
        kind: "exp" or "sigmoid".
    """
    kept = torch.exp(-alphas) if kind == "exp" else torch.sigmoid(alphas)
    return torch.where(mask, kept, torch.zeros_like(kept))


def project(alphas: Tensor, kind: str = "exp") -> None:
    """Moves alphas in place to where they mean a probability: alpha >= 0 for "exp".

    The clamp is a projection after the step and not part of the forward pass: the gradient of a
    clamp at exactly 0 is 0, and alphas that start there would never move.
    """
    if kind == "exp":
        alphas.clamp_(min=0.0)


def marginal(p: Tensor) -> Tensor:
    """Returns m_k = p_1 * ... * p_k, the probability to keep step k, shape [groups, K]."""
    return torch.cumprod(p, dim=1)


def width_probabilities(m: Tensor) -> Tensor:
    """Returns P(just k steps are kept) for k = 0..K, shape [groups, K + 1]; rows add up to 1."""
    one, zero = m.new_ones(len(m), 1), m.new_zeros(len(m), 1)
    return torch.cat([one, m], dim=1) - torch.cat([m, zero], dim=1)


def width_moments(probabilities: Tensor, minimum: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean and the variance of every group's width in units, shape [groups] each.

    Args:
        probabilities: Of keeping 0..K steps, shape [groups, K + 1] (see `width_probabilities`).
        minimum: Units that are always kept, shape [groups].
        step: Units per step, shape [groups].
    """
    counts = torch.arange(probabilities.shape[1]).to(probabilities)
    mean = probabilities @ counts
    square = probabilities @ counts**2
    return minimum + step * mean, step**2 * (square - mean**2)


def sample_steps(p: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the steps kept by one draw of the process per group, shape [groups], int64.

    Args:
        p: Transition probabilities on the CPU, shape [groups, K].
        generator: Where the random numbers come from; one of the same seed on every rank.
    """
    kept = torch.rand(p.shape, generator=generator, dtype=p.dtype) < p
    return torch.cumprod(kept.to(torch.int64), dim=1).sum(dim=1)


def unit_gates(m: Tensor, unit_steps: Tensor) -> Tensor:
    """Returns the gate of every unit: 1 for those always kept, else their step's marginal.

    Args:
        m: Marginal probabilities, shape [groups, K].
        unit_steps: For every unit its place in the rows [1, m_1, ..., m_K], flattened; shape
            [units].
    """
    rows = torch.cat([m.new_ones(len(m), 1), m], dim=1)
    return rows.flatten()[unit_steps]
