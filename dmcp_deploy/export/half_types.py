"""The two half-precision types: what ONNX calls them and how float32 is rounded to them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, numpy_helper

from dmcp_deploy.errors import DmcpError


@dataclass(frozen=True)
class HalfType:
    """A 16-bit floating-point type.

    Attributes:
        name: "fp16" or "bf16".
        element_type: Its number in ONNX.
        schema_type: Its name in the types that an ONNX operator allows.
        lowest_opset: The first opset whose convolutions take it.
        largest: Its largest finite value.
        smallest: Its smallest value of full precision.
    """

    name: str
    element_type: int
    schema_type: str
    lowest_opset: int
    largest: float
    smallest: float

    @property
    def coarse(self) -> float:
        """Below, fewer than five bits of a value are left, or nothing."""
        return self.smallest / 64


HALF_TYPES = {
    "fp16": HalfType("fp16", TensorProto.FLOAT16, "tensor(float16)", 1, 65504.0, 2.0**-14),
    "bf16": HalfType(
        "bf16", TensorProto.BFLOAT16, "tensor(bfloat16)", 22, 255 * 2.0**120, 2.0**-126
    ),
}


def raised_constant(tensor: TensorProto, half: HalfType) -> float | None:
    """Returns what stands in for a number too small for a half type; None where none need.

    An epsilon that became 0 would let a norm divide by 0.
    """
    values = numpy_helper.to_array(tensor)
    if values.size != 1:
        return None
    value = float(values.item())
    return math.copysign(half.smallest, value) if 0 < abs(value) < half.coarse else None


def half_tensor(tensor: TensorProto, half: HalfType, *, saturate: bool) -> tuple[TensorProto, int]:
    """Returns a float32 tensor in a half type, to nearest, and how many values became 0.

    Args:
        tensor: The tensor, its values within.
        half: The type.
        saturate: Whether finite values beyond the type's largest become the largest; infinite
            values stay infinite.

    Raises:
        DmcpError: A finite value is beyond the type's largest, and `saturate` is False.
    """
    values = numpy_helper.to_array(tensor)
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    if largest > half.largest:
        if not saturate:
            raise DmcpError(
                f"The weight {tensor.name} holds {largest:.4g}, and {half.name} ends at"
                f" {half.largest:.6g}: use another precision, or train with weight decay."
            )
        infinite = np.isinf(values)
        values = np.where(infinite, values, np.clip(values, -half.largest, half.largest))
    bits = _bits(values.astype(np.float32), half)
    flushed = int(np.count_nonzero(values) - np.count_nonzero(bits & 0x7FFF))
    converted = TensorProto(name=tensor.name, data_type=half.element_type, dims=tensor.dims)
    converted.raw_data = bits.astype("<u2").tobytes()
    return converted, flushed


def _bits(values: npt.NDArray[np.float32], half: HalfType) -> npt.NDArray[np.uint16]:
    if half.element_type == TensorProto.FLOAT16:
        return np.ascontiguousarray(values.astype(np.float16)).view(np.uint16)
    # bfloat16 is the upper half of a float32; ties go to the even neighbour.
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # Rounding up could carry a NaN's bits into infinity.
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)
