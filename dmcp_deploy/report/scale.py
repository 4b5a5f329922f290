"""Axes: from values to places in percent, and ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

_Value = TypeVar("_Value")

_TICKS = 5


@dataclass(frozen=True)
class Axis:
    """A stretch of values, and those that are labelled.

    Attributes:
        low: Value at the start.
        high: Value at the end, above `low`.
        ticks: Values that are labelled.
        show: How a value is written.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    show: Callable[[float], str]

    def place(self, value: float) -> float:
        """Returns where a value lies, in percent of the stretch."""
        return round((value - self.low) / (self.high - self.low) * 100, 3)


def number(value: float) -> str:
    """Returns a number as it is written at a tick: "0.5", "1200"."""
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.4g}"


def percent(value: float) -> str:
    """Returns a share as "50%"."""
    return f"{value * 100:.4g}%"


def axis(
    values: Iterable[float], show: Callable[[float], str] = number, *, zero: bool = False
) -> Axis:
    """Returns an axis from a round number to a round number, which all values lie between."""
    low, high = _limits(values, zero)
    step = _step(high - low)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(float(f"{i * step:.12g}") for i in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks, show)


def tight_axis(values: Sequence[float], show: Callable[[float], str] = number) -> Axis:
    """Returns an axis that begins and ends with the values, ticks at round numbers between."""
    low, high = _limits(values, zero=False)
    step = max(_step(high - low), 1.0)
    inner = range(math.ceil(low / step), math.floor(high / step) + 1)
    return Axis(low, high, tuple(i * step for i in inner), show)


def spread(values: Sequence[_Value], most: int) -> list[_Value]:
    """Returns at most so many of the values, evenly spread, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    last = len(values) - 1
    return [values[round(i * last / (most - 1))] for i in range(most)]


def _limits(values: Iterable[float], zero: bool) -> tuple[float, float]:
    known = [*values, *([0.0] if zero else [])] or [0.0]
    low, high = min(known), max(known)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    half = abs(high) * 0.05 or 0.5
    return low - half, high + half


def _step(span: float) -> float:
    """Returns the round number (1, 2 or 5 times a power of ten) that makes about five steps."""
    power = 10.0 ** math.floor(math.log10(span / _TICKS))
    return next(m * power for m in (1, 2, 5, 10) if span / (m * power) <= _TICKS + 0.5)
