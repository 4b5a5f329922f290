"""The budget loss of DMCP: what pulls the expected multiply-adds to the budget (DMCP, 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

BAND = (0.95, 1.0)  # of the budget: where the expected MACs should lie
_APPROACH = 0.25  # of its distance from the band's middle: the most E[MACs] may move in a step
_LEAST_MOVE = 0.01  # of the budget: a move that is always allowed


def budget_loss(expected_macs: Tensor, budget_macs: int) -> Tensor:
    """Returns DMCP's log-l1 budget loss, relative to the budget, a differentiable scalar.

    Zero where the expected MACs E lie in [0.95, 1) of the budget T; log(|E - T| / T) below that
    band, log(|E - 0.95 T| / T) at or above it. Relative to T, value and gradient are the same
    for a budget of 1M as of 4G; the band keeps the gradient bounded.

    Args:
        expected_macs: E[MACs] at the architecture parameters, a scalar.
        budget_macs: The budget in multiply-adds.
    """
    share = expected_macs / budget_macs
    if float(share.detach()) >= BAND[1]:
        return torch.log(share - BAND[0])
    if float(share.detach()) >= BAND[0]:
        return share * 0.0
    return torch.log(1.0 - share)


def largest_move(share: float) -> float:
    """Returns by how much E[MACs] / budget may change in one step of the alphas.

    Momentum and a gradient that grows towards the budget make the expected MACs shoot far below
    it, from where the budget loss hardly pulls them back. So a step may change them by a quarter
    of their distance from the band (or by 1% of the budget, if that is more).

    Args:
        share: E[MACs] / budget before the step.
    """
    return max(_LEAST_MOVE, _APPROACH * abs(share - sum(BAND) / 2))
