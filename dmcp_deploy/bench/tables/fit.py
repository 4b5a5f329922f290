"""From times at some widths to the time at any: regressions without coefficients below zero."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Multiples that kernels may round widths up to: each pair is tried.
ROUNDINGS = (1, 4, 8, 16, 32)

#: Profilers count microseconds: shorter times weigh no more in a regression than 1 us.
_LEAST_MS = 1e-3
#: Terms that differ by less, relatively, are not told apart.
_SINGULAR = 1e-9


@dataclass(frozen=True)
class Samples:
    """A layer's times at some widths.

    Attributes:
        widths: Input and output channels of each sample, shape [samples, 2].
        ms: Its time, shape [samples].
        by_output: Whether the time depends on the output channels alone.
    """

    widths: Array
    ms: Array
    by_output: bool


@dataclass(frozen=True)
class LayerFit:
    """How a layer's time follows from its widths.

    Attributes:
        coefficients: Of 1, in, out and in * out, widths rounded up; none is below zero.
        rounding: What the input and the output channels are rounded up to.
        left_out_ms: Each sample's time, predicted from the others, shape [samples].
    """

    coefficients: Array
    rounding: tuple[int, int]
    left_out_ms: Array


def fit_layer(samples: Samples) -> LayerFit:
    """Returns how a layer's time follows from its widths.

    Of all pairs of roundings and all sets of terms whose coefficients come out at zero or more,
    the one with the least squares of relative errors, each sample predicted from the others.
    """
    candidates = [
        fit
        for inputs in ((1,) if samples.by_output else ROUNDINGS)
        for outputs in ROUNDINGS
        for fit in _fits(samples, (inputs, outputs))
    ]
    weights = 1 / np.maximum(samples.ms, _LEAST_MS) ** 0.5

    def error(fit: LayerFit) -> float:
        return float((((fit.left_out_ms - samples.ms) * weights) ** 2).sum())

    return min(candidates, key=error)


def _fits(samples: Samples, rounding: tuple[int, int]) -> Iterator[LayerFit]:
    """Yields the least squares of each set of terms, where no coefficient is below zero."""
    features = _features(samples.widths, rounding)
    scale = np.maximum(features.max(axis=0), 1.0)
    weights = 1 / np.maximum(samples.ms, _LEAST_MS) ** 0.5
    rows, wanted = features / scale * weights[:, None], samples.ms * weights
    for used in _term_sets(samples.by_output):
        left, values, right = np.linalg.svd(rows[:, used], full_matrices=False)
        if values[-1] < _SINGULAR * values[0]:
            continue
        part = right.T @ (left.T @ wanted / values)
        if part.min() < 0:
            continue
        leverage = (left**2).sum(axis=1)
        left_over = (wanted - rows[:, used] @ part) / np.maximum(1 - leverage, _SINGULAR)
        coefficients = np.zeros(len(scale))
        coefficients[used] = part
        yield LayerFit(coefficients / scale, rounding, (wanted - left_over) / weights)


def _term_sets(by_output: bool) -> list[list[int]]:
    """Returns all sets of the terms 1, in, out and in * out that a layer's time may be made of."""
    terms = (0, 2) if by_output else (0, 1, 2, 3)
    sizes = range(1, len(terms) + 1)
    return [list(some) for size in sizes for some in itertools.combinations(terms, size)]


def _features(widths: Array, rounding: tuple[int, int]) -> Array:
    inputs, outputs = (np.ceil(widths / rounding) * rounding).T
    return np.stack([np.ones_like(outputs), inputs, outputs, inputs * outputs], axis=1)


@dataclass(frozen=True)
class CallsFit:
    """Whole calls as a function of the time of all kernels.

    Attributes:
        fixed_ms: What every call takes besides.
        factor: What a millisecond of profiled kernels takes without the profiler.
    """

    fixed_ms: float
    factor: float

    def at(self, kernels_ms: Array) -> Array:
        """Returns the latency of calls, in milliseconds."""
        return np.asarray(self.fixed_ms + self.factor * kernels_ms)


def fit_calls(kernels_ms: Array, calls_ms: Array) -> CallsFit:
    """Returns how whole calls follow from their kernels: the least sum of relative errors.

    Of all lines through two of the points, or through one and the origin, that neither start nor
    fall below zero, it is the best: a few calls that were disturbed do not move it.
    """
    points = list(zip(kernels_ms.tolist(), calls_ms.tolist(), strict=True))
    lines = [CallsFit(0.0, y / x) for x, y in points if x > 0]
    for (x1, y1), (x2, y2) in itertools.combinations(points, 2):
        slope = (y2 - y1) / (x2 - x1) if x1 != x2 else 0.0
        if slope >= 0 and y1 - slope * x1 >= 0:
            lines.append(CallsFit(y1 - slope * x1, slope))

    def error(line: CallsFit) -> float:
        return float(np.abs(line.at(kernels_ms) / calls_ms - 1).sum())

    return min(lines, key=error)
