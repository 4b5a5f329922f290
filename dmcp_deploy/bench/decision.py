"""Whether one network got slower than another by more than a limit: the statistics alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dmcp_deploy.bench.ratio import (
    FASTER,
    LEAST_DIFFERENCE,
    LEAST_ROUNDS,
    NOISY,
    RESAMPLE_SEED,
    resampled_medians,
)
from dmcp_deploy.bench.timing import is_turned

REGRESSION = "regression"
WITHIN = "within the limit"

#: Fewer loads than this do not show how much loads differ. In half of them the old network is
#: loaded first.
LEAST_LOADS = 8

#: The place of a network's memory changes its latency by up to 3% for as long as it stays loaded.
#: If a few loads happen to scatter less than this (of the logarithms), the interval assumes this.
_LEAST_SCATTER = 0.01
#: Quantiles of Student's t at 0.999, for 6, 8, 10, ... degrees of freedom and the last for more.
#: The decision may fall after every second load, and each is a chance to err: with 0.999 at each,
#: all intervals together hold at 99%.
_STUDENT = (
    *(5.208, 4.501, 4.144, 3.930, 3.787, 3.686, 3.610),
    *(3.552, 3.505, 3.467, 3.435, 3.408, 3.385),
)
_BLOCKS = 8

#: One load of both networks: samples of the old and of the new one, round by round.
Load = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Decision:
    """How much slower a network is, and what that means for a limit.

    Attributes:
        ratio: Its latency / the other's.
        low: Lower end of the 99% interval of the ratio.
        high: Its upper end.
        verdict: "regression" if the whole interval lies above 1 + limit; "within the limit" if
            the whole interval lies below, or "faster" if it lies below 1 by 2% or more; else
            "too noisy to tell".
    """

    ratio: float
    low: float
    high: float
    verdict: str


def decide_by_loads(loads: Iterable[Load], limit: float) -> Decision:
    """Returns the decision on networks measured interleaved; takes loads until it is clear.

    Loads are asked for one by one, and no further once the interval lies on one side of the
    limit. The interval is Student's, over the loads; those that loaded the old network first and
    those that loaded it last may differ in the mean.

    Args:
        loads: Samples from pairs of rounds (see `bench.timing`); of loads 0 and 1, 2 and 3 and
            so on either order comes once, as `is_turned` says.
        limit: Slowdown that is allowed: 0.05 for 5%.
    """
    logs: list[float] = []
    decision = Decision(1.0, 0.0, math.inf, NOISY)
    for old_ms, new_ms in loads:
        logs.append(load_log_ratio(old_ms, new_ms))
        if len(logs) >= LEAST_LOADS and len(logs) % 2 == 0:
            decision = _student(logs, limit)
            if decision.verdict != NOISY:
                break
    return decision


def load_log_ratio(old_ms: Sequence[float], new_ms: Sequence[float]) -> float:
    """Returns log(new / old) of one load: the median over its rounds, four by four.

    Of the two calls that a network makes in a pair of rounds the quicker counts: either came
    first once, and an interruption must hit both calls to show. Of two pairs, of which the second
    is turned round, the mean counts; a last pair without its second only where it is the only one.
    """
    logs = [
        math.log(min(new_pair) / min(old_pair))
        for old_pair, new_pair in zip(_pairs(old_ms), _pairs(new_ms), strict=True)
    ]
    fours = _pairs(logs[: len(logs) // 2 * 2])
    return statistics.median(map(statistics.fmean, fours)) if fours else logs[0]


def decide_unpaired(before_ms: Sequence[float], now_ms: Sequence[float], limit: float) -> Decision:
    """Returns the decision on two measurements of two occasions, by the ratio of their medians.

    The interval resamples blocks of an eighth of either measurement, so that what lasted shows,
    and reaches 2% to both sides at least: two loads of one file differ by that. What the machine
    drifted between the occasions is part of the ratio and cannot be told from the samples.

    Args:
        before_ms: Samples of the first occasion.
        now_ms: Samples of the second.
        limit: Slowdown that is allowed: 0.05 for 5%.
    """
    ratio = statistics.median(now_ms) / statistics.median(before_ms)
    if min(len(before_ms), len(now_ms)) < LEAST_ROUNDS:
        return Decision(ratio, 0.0, math.inf, NOISY)
    rng = np.random.default_rng(RESAMPLE_SEED)
    before, now = (
        resampled_medians(samples, _BLOCKS, math.ceil(len(samples) / _BLOCKS), rng)
        for samples in (before_ms, now_ms)
    )
    low, high = (float(end) for end in np.percentile(now / before, (0.5, 99.5)))
    low = min(low, ratio * (1 - LEAST_DIFFERENCE))
    high = max(high, ratio * (1 + LEAST_DIFFERENCE))
    return Decision(ratio, low, high, _verdict(low, high, limit))


def _pairs(values: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(values[::2], values[1::2], strict=True))


def _student(logs: Sequence[float], limit: float) -> Decision:
    """Returns the decision from log ratios of loads in either order."""
    turned = [is_turned(number) for number in range(len(logs))]
    halves = [
        [log for log, turn in zip(logs, turned, strict=True) if turn is order]
        for order in (False, True)
    ]
    freedom = len(logs) - len(halves)
    quantile = _STUDENT[min((freedom - LEAST_LOADS) // 2 + 1, len(_STUDENT) - 1)]
    squares = sum((log - statistics.fmean(half)) ** 2 for half in halves for log in half)
    scatter = max(math.sqrt(squares / freedom), _LEAST_SCATTER)
    middle, reach = statistics.fmean(logs), quantile * scatter / math.sqrt(len(logs))
    low, high = math.exp(middle - reach), math.exp(middle + reach)
    return Decision(math.exp(middle), low, high, _verdict(low, high, limit))


def _verdict(low: float, high: float, limit: float) -> str:
    if low > 1 + limit:
        return REGRESSION
    if high < 1 - LEAST_DIFFERENCE:
        return FASTER
    return WITHIN if high < 1 + limit else NOISY
