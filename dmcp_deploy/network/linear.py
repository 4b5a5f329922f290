"""Widths that are linear in the units that a network's groups keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmcp_deploy.network.graph import Network, Units

#: The unit of each channel on one side of a layer, -1 where it always stays; or None and a width.
Side = tuple[Units | None, int]


@dataclass(frozen=True)
class LinearWidths:
    """Several widths, each fixed + slope @ units.

    Attributes:
        fixed: Channels that are always there, shape [widths].
        slope: Channels that each unit of a prunable group adds, shape [widths, groups].
    """

    fixed: np.ndarray
    slope: np.ndarray

    def __call__(self, units: np.ndarray) -> np.ndarray:
        """Returns the widths [widths] at units [groups]."""
        return np.asarray(self.fixed + self.slope @ units)

    def tensors(self, units: Tensor) -> Tensor:
        """Returns the widths [widths] at real units [groups], differentiable."""
        slope = torch.as_tensor(self.slope, dtype=units.dtype, device=units.device)
        fixed = torch.as_tensor(self.fixed, dtype=units.dtype, device=units.device)
        return fixed + slope @ units


def linear_widths(network: Network, sides: Sequence[Side]) -> LinearWidths:
    """Returns the widths of sides of layers, by the network's prunable groups."""
    firsts = [group.first for group in network.prunable]
    fixed = np.zeros(len(sides), dtype=np.int64)
    slope = np.zeros((len(sides), len(firsts)), dtype=np.int64)
    for row, (units, width) in enumerate(sides):
        if units is None:
            fixed[row] = width
            continue
        fixed[row] = int((units < 0).sum())
        slope[row] = np.bincount(units[units >= 0], minlength=network.unit_count)[firsts]
    return LinearWidths(fixed, slope)
