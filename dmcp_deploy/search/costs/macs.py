"""Multiply-adds as a cost of plans."""

from __future__ import annotations

from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.search.costs.bilinear import BilinearCost
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.units import format_macs


class MacsCost(BilinearCost):
    """Multiply-adds of convolution and linear layers for one image."""

    name = "multiply-adds"

    def __init__(self, accounting: NetworkCost, space: SearchSpace) -> None:
        super().__init__(accounting.multiply_adds, space)

    def text(self, value: float) -> str:
        """Returns "211.0M multiply-adds"."""
        return f"{format_macs(value)} {self.name}"
