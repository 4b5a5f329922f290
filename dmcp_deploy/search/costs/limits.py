"""The budgets of a search: costs, each with the most that a plan may have of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dmcp_deploy.search.costs.protocol import Cost


@dataclass(frozen=True)
class Limit:
    """One budget.

    Attributes:
        cost: What is limited.
        most: The most a plan may cost, above zero.
        asked: The budget as the user wrote it.
    """

    cost: Cost
    most: float
    asked: str

    def share(self, units: np.ndarray) -> float:
        """Returns which share of the budget a plan takes; at most 1.0 if it is met."""
        return self.cost.at(units) / self.most


@dataclass(frozen=True)
class Limits:
    """One budget or several, all of which a plan must meet."""

    limits: tuple[Limit, ...]

    def __post_init__(self) -> None:
        assert self.limits

    @property
    def steps(self) -> np.ndarray:
        """Channels by which some cost of each group steps up, shape [groups]."""
        steps: np.ndarray = np.lcm.reduce([limit.cost.steps for limit in self.limits])
        return steps

    def share(self, units: np.ndarray) -> float:
        """Returns the largest share that a plan takes of any budget; at most 1.0 if all are met."""
        return max(limit.share(units) for limit in self.limits)

    def is_met(self, units: np.ndarray) -> bool:
        """Returns whether a plan meets all budgets."""
        return self.share(units) <= 1.0

    def binding(self, units: np.ndarray) -> Limit:
        """Returns the budget of which a plan takes the largest share."""
        return max(self.limits, key=lambda limit: limit.share(units))

    def expected_share(self, probabilities: Tensor) -> Tensor:
        """Returns the largest expected share of any budget, a differentiable scalar.

        Args:
            probabilities: Of the widths of every group, shape [groups, K + 1] (see `Cost`).
        """
        shares = (limit.cost.expected(probabilities) / limit.most for limit in self.limits)
        return max(shares, key=lambda share: float(share.detach()))
