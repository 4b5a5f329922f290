"""Means over seeds and differences between methods, seed by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

#: 97.5% quantiles of Student's t by degrees of freedom, 1 to 30.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Difference:
    """A mean difference and its 95% interval (Student's t).

    Attributes:
        mean: The mean of the differences, seed by seed.
        low: Lower end of the interval; minus infinity for a single seed.
        high: Its upper end.
    """

    mean: float
    low: float
    high: float


def deviation(values: Sequence[float]) -> float:
    """Returns the standard deviation of a sample; NaN for a single value."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Returns how much more ours are than theirs; value i of both is of the same seed."""
    found = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(found)
    if len(found) == 1:
        return Difference(mean, -math.inf, math.inf)
    half = _quantile(len(found) - 1) * statistics.stdev(found) / math.sqrt(len(found))
    return Difference(mean, mean - half, mean + half)


def _quantile(degrees: int) -> float:
    """Returns the 97.5% quantile of Student's t, on the safe side above 30 degrees of freedom."""
    return _T[min(degrees, len(_T)) - 1]
