"""The budget loss of DMCP: what pulls the expected cost to the budget (DMCP, 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

BAND = (0.95, 1.0)  # of the budget: where the expected cost should lie
_APPROACH = 0.25  # of its distance from the band's middle: the most it may move in a step
_LEAST_MOVE = 0.01  # of the budget: a move that is always allowed


def budget_loss(share: Tensor) -> Tensor:
    """Returns DMCP's log-l1 budget loss, relative to the budget, a differentiable scalar.

    Zero where the expected cost E lies in [0.95, 1) of the budget T; log(|E - 0.95 T| / T) at or
    above that band, log(|E - T| / E) below it. Relative to T, value and gradient are the same for
    a budget of 1M as of 4G; the band keeps the gradient bounded. Relative to E below the band,
    where DMCP divides by T there too, a tenth of the budget is pulled up as strongly as ten times
    the budget is pulled down: the slope by log E is 1 / (1 - E / T), not E / T of that.

    Args:
        share: E / T at the architecture parameters, a scalar; of several budgets the largest.
    """
    if float(share.detach()) >= BAND[1]:
        return torch.log(share - BAND[0])
    if float(share.detach()) >= BAND[0]:
        return share * 0.0
    return torch.log(1.0 / share - 1.0)


def largest_move(share: float) -> float:
    """Returns by how much the expected share of a budget may change in one step of the alphas.

    Momentum and a gradient that grows towards the budget make the expected cost shoot far below
    it, from where the budget loss hardly pulls them back. So a step may change it by a quarter
    of its distance from the band (or by 1% of the budget, if that is more).

    Args:
        share: The expected share before the step.
    """
    return max(_LEAST_MOVE, _APPROACH * abs(share - sum(BAND) / 2))
