"""Results of floating point that may differ by rounding, and by nothing else.

The same products are added in another order by another processor's kernels, in another memory
layout, on other threads, or beside zeros, and every order rounds otherwise. A sum of n products of
mixed signs, added one by one, is off by about eps / 2 * sqrt(n / 2) of its size: each addition
rounds a partial sum. Errors of layers add up in squares as well, so the products of all layers that
stand behind a value count together. Two orders differ by sqrt(2) times that, eps / 2 * sqrt(n), and
the largest difference of many values is four or five such deviations. The bound here is eight:
4 * eps * sqrt(n), in units of the largest entry.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: The distance from 1 to the next number.
EPSILON = {"fp64": 2.0**-52, "fp32": 2.0**-23, "fp16": 2.0**-10, "bf16": 2.0**-7}


def assert_same(
    actual: Any,
    wanted: Any,
    *,
    roundings: int = 1,
    precision: str = "fp32",
    scale: float | None = None,
    about: str = "",
) -> None:
    """Checks that two results differ by rounding at most.

    Args:
        actual: A tensor, an array, a number or a list of numbers.
        wanted: Of the same shape.
        roundings: How many roundings stand behind a value, one after another: the products that a
            sum adds up, over all layers (see `count_roundings`).
        precision: In which the less exact of both was computed: "fp64", "fp32", "fp16" or "bf16".
        scale: The size of the numbers that were rounded; if not given, the largest entry of
            `wanted`. To be given where a difference of larger numbers is compared.
        about: What is compared, for the message.
    """
    one, other = _array(actual), _array(wanted)
    assert one.shape == other.shape, f"{about} {one.shape} is not {other.shape}"
    size = _largest(other) if scale is None else scale
    allowed = rounding_bound(roundings, precision) * size
    with np.errstate(invalid="ignore"):
        error = _largest(one - other)
    # What is NaN or infinite fails too.
    assert error <= allowed < float("inf"), (
        f"{about} differs by {error:.3g}, of {size:.3g} that is {error / (size or 1):.2g};"
        f" rounding explains {allowed:.3g}"
    )


def difference(actual: Any, wanted: Any) -> float:
    """Returns the largest difference in units of the largest entry of `wanted`."""
    other = _array(wanted)
    return _largest(_array(actual) - other) / _largest(other)


def rounding_bound(roundings: int, precision: str = "fp32") -> float:
    """Returns what so many roundings can make of a difference, relative to the largest entry."""
    return 4 * EPSILON[precision] * float(roundings) ** 0.5


def count_roundings(network: Any) -> int:
    """Returns the products that all layers of a network add up for one of their outputs each."""
    return sum(p[0].numel() if p.ndim else 1 for p in network.parameters())


def _array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0))
