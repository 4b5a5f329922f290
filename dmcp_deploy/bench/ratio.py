"""The ratio of two latencies from interleaved rounds, its interval and what it says."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FASTER = "faster"
SLOWER = "slower"
SAME = "no difference"
NOISY = "too noisy to tell"

#: What a difference must exceed, with its whole interval: two loads of one file differ by less.
LEAST_DIFFERENCE = 0.02
#: An interval that reaches further than this from 1 does not show that there is no difference.
WIDEST_EQUALITY = 0.05
#: Fewer rounds than this say nothing.
LEAST_ROUNDS = 10

RESAMPLE_SEED = 0
_RESAMPLES = 1000


@dataclass(frozen=True)
class LatencyRatio:
    """How long one network takes in units of another's time.

    Attributes:
        value: Median over the rounds of (latency / the other's latency in the same round).
        low: Lower end of the 95% interval of `value`.
        high: Its upper end.
        verdict: "faster", "slower", "no difference" or "too noisy to tell".
    """

    value: float
    low: float
    high: float
    verdict: str


def latency_ratio(base_ms: Sequence[float], other_ms: Sequence[float]) -> LatencyRatio:
    """Returns the ratio of the second's latency to the first's, below 1 if it is faster.

    Args:
        base_ms: Samples of the reference; sample i of both was taken in round i.
        other_ms: As many samples of the network that is judged.
    """
    # Within a round both saw the same clocks and the same neighbours: drift cancels.
    ratios = [other / base for base, other in zip(base_ms, other_ms, strict=True)]
    value = statistics.median(ratios)
    low, high = median_interval(ratios)
    return LatencyRatio(value, low, high, _verdict(low, high, len(ratios)))


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """Returns the 95% bootstrap interval of the median of samples or ratios, one a round.

    Blocks of n^(1/3) neighbouring rounds are resampled, which keep together what a disturbance
    hit together; single rounds would make the interval too narrow.
    """
    length = math.ceil(len(samples) ** (1 / 3))
    blocks = math.ceil(len(samples) / length)
    medians = resampled_medians(samples, blocks, length, np.random.default_rng(RESAMPLE_SEED))
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(low), float(high)


def resampled_medians(
    samples: Sequence[float], blocks: int, length: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Returns the medians of as many values as there are, drawn in blocks, again and again.

    Args:
        samples: The values, in the order in which they were taken.
        blocks: How many blocks are drawn, each from a random place on; the end meets the start.
        length: Neighbouring values in each.
        rng: Draws the places.
    """
    values = np.asarray(samples, dtype=np.float64)
    count, within = len(values), np.arange(length)
    medians = np.empty(_RESAMPLES)
    for i in range(_RESAMPLES):
        starts = rng.integers(count, size=blocks)
        drawn = (starts[:, None] + within).ravel()[:count] % count
        medians[i] = np.median(values[drawn])
    return medians


def _verdict(low: float, high: float, rounds: int) -> str:
    if rounds < LEAST_ROUNDS:
        return NOISY
    if high < 1 - LEAST_DIFFERENCE:
        return FASTER
    if low > 1 + LEAST_DIFFERENCE:
        return SLOWER
    if low >= 1 - WIDEST_EQUALITY and high <= 1 + WIDEST_EQUALITY:
        return SAME
    return NOISY
