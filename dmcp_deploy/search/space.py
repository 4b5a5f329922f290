"""The widths a search chooses from, group by group (DMCP's grid)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dmcp_deploy.network.graph import Network

_SLACK = 1e-9  # (1.5 - 0.1) / 0.1 is 13.999999999999998 in floating point


@dataclass(frozen=True)
class SearchSpace:
    """For every prunable group the widths minimum + k * step, k = 0..count, in units.

    Attributes:
        names: Group names, in order.
        unit: Channels per unit, shape [groups].
        minimum: Units always kept, shape [groups].
        step: Units per step, shape [groups].
        count: Steps, shape [groups]; 0 for a group too small to narrow.
    """

    names: tuple[str, ...]
    unit: np.ndarray
    minimum: np.ndarray
    step: np.ndarray
    count: np.ndarray

    @cached_property
    def full(self) -> np.ndarray:
        """Units of every group, shape [groups]."""
        return np.asarray(self.minimum + self.count * self.step)

    @cached_property
    def mask(self) -> Tensor:
        """True where a group has such a step, shape [groups, largest count]."""
        columns = max(1, int(self.count.max(initial=0)))
        return torch.arange(columns)[None, :] < torch.from_numpy(self.count)[:, None]

    @cached_property
    def unit_steps(self) -> Tensor:
        """For every unit of the network its place in flattened rows [1, m_1, ..., m_K]."""
        row = self.mask.shape[1] + 1
        places = [
            g * row + np.maximum(0, 1 + (np.arange(self.full[g]) - self.minimum[g]) // self.step[g])
            for g in range(len(self.names))
        ]
        return torch.from_numpy(np.concatenate(places) if places else np.empty(0, dtype=np.int64))

    def units(self, steps: np.ndarray) -> np.ndarray:
        """Returns the units at given numbers of steps, shape [groups]."""
        return np.asarray(self.minimum + steps * self.step)

    def widths(self, units: np.ndarray) -> dict[str, int]:
        """Returns group name -> channels for units, shape [groups]."""
        channels = (units * self.unit).tolist()
        return dict(zip(self.names, channels, strict=True))

    def random_units(self, generator: torch.Generator) -> np.ndarray:
        """Returns a width for every group, each drawn uniformly from its grid, shape [groups]."""
        draws = torch.rand(len(self.names), generator=generator, dtype=torch.float64).numpy()
        return self.units(np.floor(draws * (self.count + 1)).astype(np.int64))


def search_space(network: Network, min_width: float = 0.1, offset: float = 0.1) -> SearchSpace:
    """Returns DMCP's grid of widths for a network.

    For a group of C channels at width multiplier M the step is int(offset * C / M), at least 1,
    and as many steps are taken from C downwards as fit above min_width. A multiplier above 1
    makes the steps finer, as the authors' supernet of MobileNetV2 1.5x does.

    Args:
        network: The network to search.
        min_width: The narrowest network as a width multiplier.
        offset: The step as a width multiplier.
    """
    groups = network.prunable
    largest = max(1.0, network.spec.width_mult)
    most = math.floor((largest - min_width) / offset + _SLACK)
    units = np.array([group.units for group in groups], dtype=np.int64)
    step = np.maximum(1, np.floor(offset * units / largest + _SLACK)).astype(np.int64)
    count = np.minimum(most, (units - 1) // step)
    return SearchSpace(
        names=tuple(group.name for group in groups),
        unit=np.array([group.unit for group in groups], dtype=np.int64),
        minimum=units - count * step,
        step=step,
        count=count,
    )
