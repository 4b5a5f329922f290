"""Sums of products of two widths: what multiply-adds and parameters have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.linear import Side, linear_widths


@dataclass(frozen=True)
class Product:
    """One part of the sum: `factor` for every pair of channels, of which one in `share` counts."""

    inputs: Side
    outputs: Side
    factor: int
    share: int = 1


@dataclass(frozen=True)
class Quadratic:
    """The same sum over groups g and h: constant + linear_g u_g + u_g square_gh u_h.

    Attributes:
        constant: What is there at any widths.
        linear: For each unit of a group, shape [groups].
        square: For each pair of units, upper triangular, shape [groups, groups].
    """

    constant: float
    linear: np.ndarray
    square: np.ndarray


class Bilinear:
    """A constant, and products of two widths that are linear in the units kept per group."""

    def __init__(self, network: Network, constant: int, products: Sequence[Product]) -> None:
        self._constant = constant
        self.inputs = linear_widths(network, [product.inputs for product in products])
        self.outputs = linear_widths(network, [product.outputs for product in products])
        self._factors = np.array([product.factor for product in products], np.int64)
        self._shares = np.array([product.share for product in products], np.int64)

    def at(self, units: np.ndarray) -> int:
        """Returns the sum at the units [groups] kept by each prunable group."""
        pairs = self.inputs(units) * self.outputs(units)
        return self._constant + int((self._factors * pairs // self._shares).sum())

    def expected(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Returns the expectation of the sum, exactly, and differentiable.

        Groups are independent, so E[in * out] is the product of the expectations, plus the
        variance of every group that is on both sides of a layer: there E[w^2] counts, which
        differs from E[w]^2 (DMCP, equation 8, uses the latter).

        Args:
            mean: Expected units per prunable group, shape [groups].
            variance: Variance of the units per prunable group, shape [groups].
        """
        into, out = self.inputs.tensors(mean), self.outputs.tensors(mean)
        both = (self.inputs.slope * self.outputs.slope).astype(np.float64)
        shared = torch.as_tensor(both, dtype=mean.dtype, device=mean.device) @ variance
        per_pair = self._factors / self._shares
        factors = torch.as_tensor(per_pair, dtype=mean.dtype, device=mean.device)
        return self._constant + (factors * (into * out + shared)).sum()

    def quadratic(self) -> Quadratic:
        """Returns the sum multiplied out."""
        factors, (a, b) = self._factors / self._shares, (self.inputs, self.outputs)
        constant = self._constant + float((factors * a.fixed * b.fixed).sum())
        linear = (factors * a.fixed) @ b.slope + (factors * b.fixed) @ a.slope
        square = a.slope.T @ (factors[:, None] * b.slope)
        return Quadratic(constant, linear, np.triu(square) + np.tril(square, -1).T)
