"""Parameters, and the bytes that they take, as costs of plans."""

from __future__ import annotations

from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.search.costs.bilinear import BilinearCost
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.units import PARAMETERS, WEIGHT_BYTES

#: Of a weight in each precision.
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}


class ParamsCost(BilinearCost):
    """Parameters, biases and those of normalisations included."""

    name = PARAMETERS

    def __init__(self, accounting: NetworkCost, space: SearchSpace) -> None:
        super().__init__(accounting.parameters, space)


class WeightBytesCost(BilinearCost):
    """Bytes of all parameters in one precision."""

    def __init__(
        self, accounting: NetworkCost, space: SearchSpace, precision: str = "fp32"
    ) -> None:
        super().__init__(accounting.parameters, space, _BYTES[precision])
        self.name = WEIGHT_BYTES if precision == "fp32" else f"{WEIGHT_BYTES} in {precision}"
