"""What a cost of plans is: one quantity, at widths and expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Term:
    """A part of a cost that depends on at most two groups.

    Attributes:
        groups: None, one or two of the prunable groups.
        values: The part's value at the widths on offer of these groups, one dimension each.
    """

    groups: tuple[int, ...]
    values: np.ndarray


class Cost(Protocol):
    """One quantity that plans have less of the narrower they are: multiply-adds, milliseconds.

    A plan is the units that each prunable group keeps, shape [groups]. What a step of one group
    changes is the difference of two values; `at` takes microseconds.
    """

    @property
    def name(self) -> str:
        """The quantity: "multiply-adds", "milliseconds"."""
        ...

    @property
    def exact_terms(self) -> bool:
        """Whether `terms` add up to `at`; if not, a plan that they allow is to be checked."""
        ...

    @property
    def steps(self) -> np.ndarray:
        """Channels by which the cost of each group steps up, shape [groups]: 1 if smoothly."""
        ...

    def at(self, units: np.ndarray) -> float:
        """Returns the cost of a plan."""
        ...

    def expected(self, probabilities: Tensor) -> Tensor:
        """Returns the exact expectation, a differentiable scalar.

        Args:
            probabilities: That each group, independently, keeps 0..K steps beyond its minimum:
                float64 on the CPU, shape [groups, K + 1] (see `markov.width_probabilities`).
        """
        ...

    def terms(self, axes: Sequence[np.ndarray]) -> list[Term]:
        """Returns parts that add up to the cost of every plan of a grid.

        Args:
            axes: The units on offer of each group, ascending.
        """
        ...

    def text(self, value: float) -> str:
        """Returns a value with its unit: "211.0M multiply-adds", "3.98 ms"."""
        ...
