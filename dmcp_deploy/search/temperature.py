"""The loss of logits whose scale is set right: how well a network that shares its weights ranks.

On shared weights the scale of the logits follows from how many inputs the last layer is left with,
and much of a loss may tell of that alone. A network that is trained by itself finds the scale that
suits it, so plans are compared at the best one, by temperature scaling.

Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
section 4.2; the factor is the temperature's reciprocal.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dmcp_deploy.training.distributed import add_up

_LARGEST = 8.0  # factor; the least is its reciprocal
_BISECTIONS = 12  # bring the factor within 0.1%, where a loss is good to a millionth


def scaled_cross_entropy(logits: Tensor, labels: Tensor, *, shared: bool = False) -> Tensor:
    """Returns the sum of cross entropies, in nats, at the one factor of all logits that is best.

    Args:
        logits: Of the images, shape [N, classes].
        labels: Shape [N].
        shared: Whether processes hold a part of the images each, and one factor is for all of
            them; the sum is of this process's part.
    """
    factor = best_factor(logits, labels, shared=shared)
    return F.cross_entropy(factor * logits, labels, reduction="sum")


def best_factor(logits: Tensor, labels: Tensor, *, shared: bool = False) -> Tensor:
    """Returns the factor that makes the loss least, a scalar from 1/8 to 8.

    The loss is convex in it, so its slope tells on which side the best one lies.

    Args:
        logits: Of the images, shape [N, classes].
        labels: Shape [N].
        shared: As of `scaled_cross_entropy`.
    """
    wanted = F.one_hot(labels, logits.shape[1])
    high = logits.new_full((), math.log(_LARGEST))
    low = -high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        likely = F.softmax(middle.exp() * logits, dim=1)
        slope = ((likely - wanted) * logits).sum(dtype=torch.float64)
        is_beyond = (add_up(slope) if shared else slope) > 0
        low, high = torch.where(is_beyond, low, middle), torch.where(is_beyond, middle, high)
    return ((low + high) / 2).exp()
