"""From a layer's times at some widths to its time at any: regression, and what it leaves over."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Multiples that kernels may round widths up to: each is tried.
ROUNDINGS = (1, 8, 16, 32)

#: Added to the squared distance in the logarithms of widths, so that near samples count alike.
_NEAR = 0.02
#: Profilers count microseconds: shorter times weigh no more in a regression than 1 us.
_LEAST_MS = 1e-3


@dataclass(frozen=True)
class Choice:
    """How a layer's time is computed from its samples.

    Attributes:
        rounding: Widths are rounded up to multiples of it.
        corrected: Whether what the regression leaves over is interpolated and added.
    """

    rounding: int = 1
    corrected: bool = True


CHOICES = tuple(Choice(step, corrected) for step in ROUNDINGS for corrected in (False, True))


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

    def without(self, left_out: npt.NDArray[np.bool_]) -> Samples:
        """Returns all samples but some."""
        return Samples(self.widths[~left_out], self.ms[~left_out], self.by_output)


def predict_ms(samples: Samples, widths: Array, choice: Choice) -> Array:
    """Returns a layer's time at other widths, in milliseconds, shape [places].

    The time is a sum with coefficients of zero or more of 1, in, out and in * out, the widths
    rounded up; relative errors count. What this leaves over of the samples is added, weighted by
    the inverse squared distance in the logarithms of the widths.

    Args:
        samples: What was measured.
        widths: Input and output channels, shape [places, 2].
        choice: How to compute.
    """
    known = _features(samples.widths, samples.by_output, choice.rounding)
    factors = nonnegative(known, samples.ms, 1 / np.maximum(samples.ms, _LEAST_MS) ** 0.5)
    predicted = _features(widths, samples.by_output, choice.rounding) @ factors
    if choice.corrected:
        predicted = predicted + _interpolate(samples, samples.ms - known @ factors, widths)
    return np.asarray(np.maximum(predicted, 0.0))


def nonnegative(features: Array, values: Array, weights: Array) -> Array:
    """Returns the coefficients, none below zero, of the least weighted squares.

    All sets of features are tried, which takes 2 ** n solutions for n features.

    Args:
        features: Shape [samples, n].
        values: Shape [samples].
        weights: Shape [samples]; errors are multiplied by them.
    """
    scale = np.maximum(np.abs(features).max(axis=0), 1e-12)
    rows, wanted = features / scale * weights[:, None], values * weights
    count = features.shape[1]
    best, least = np.zeros(count), float(wanted @ wanted)
    for chosen in itertools.product((False, True), repeat=count):
        used = np.array(chosen)
        if not used.any():
            continue
        part = np.linalg.lstsq(rows[:, used], wanted, rcond=None)[0]
        error = float(((rows[:, used] @ part - wanted) ** 2).sum())
        if part.min() >= 0 and error < least:
            least = error
            best = np.zeros(count)
            best[used] = part
    return np.asarray(best / scale)


def choose(samples: Samples, probes: npt.NDArray[np.int64]) -> tuple[Choice, Array]:
    """Returns the best way to compute a layer's time, and what it says of each probe left out.

    The best has the least sum of errors over the probes, each predicted from the others.

    Args:
        samples: What was measured.
        probes: Number of the probe of each sample, shape [samples].

    Returns:
        The choice, and for each sample its time predicted without its probe, shape [samples].
    """
    predicted = {choice: _left_out(samples, probes, choice) for choice in CHOICES}
    best = min(CHOICES, key=lambda choice: float(np.abs(predicted[choice] - samples.ms).sum()))
    return best, predicted[best]


def _left_out(samples: Samples, probes: npt.NDArray[np.int64], choice: Choice) -> Array:
    predicted = np.zeros_like(samples.ms)
    for probe in np.unique(probes):
        chosen = probes == probe
        predicted[chosen] = predict_ms(samples.without(chosen), samples.widths[chosen], choice)
    return predicted


def _features(widths: Array, by_output: bool, rounding: int) -> Array:
    inputs, outputs = (np.ceil(widths / rounding) * rounding).T
    ones = np.ones_like(outputs)
    columns = [ones, outputs] if by_output else [ones, inputs, outputs, inputs * outputs]
    return np.stack(columns, axis=1)


def _interpolate(samples: Samples, left_over: Array, widths: Array) -> Array:
    apart = np.log(widths)[:, None, :] - np.log(samples.widths)[None, :, :]
    weights = 1 / ((apart**2).sum(axis=2) + _NEAR)
    return np.asarray((weights * left_over).sum(axis=1) / weights.sum(axis=1))
