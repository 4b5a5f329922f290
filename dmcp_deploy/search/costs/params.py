"""Parameters, and the bytes that they take, as costs of plans."""

from __future__ import annotations

from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.search.costs.bilinear import BilinearCost
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.units import format_bytes, format_macs

#: Bytes of a weight in each precision.
WEIGHT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


class ParamsCost(BilinearCost):
    """Parameters, biases and those of normalisations included."""

    name = "parameters"

    def __init__(self, accounting: NetworkCost, space: SearchSpace) -> None:
        super().__init__(accounting.parameters, space)

    def text(self, value: float) -> str:
        """Returns "2.0M parameters"."""
        return f"{format_macs(value)} {self.name}"


class WeightBytesCost(BilinearCost):
    """Bytes of all parameters in one precision, as they lie in a file."""

    name = "weight bytes"

    def __init__(
        self, accounting: NetworkCost, space: SearchSpace, precision: str = "fp32"
    ) -> None:
        super().__init__(accounting.parameters, space, WEIGHT_BYTES[precision])

    def text(self, value: float) -> str:
        """Returns "8.1 MB of weights"."""
        return f"{format_bytes(value)} of weights"
