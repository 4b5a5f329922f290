"""The analysis of all experiments, fixed before they run: means, differences, multiply-adds.

Differences are Welch's, with 95% intervals. Searches are a random effect: the networks of one
search count as one value, their mean. A margin in points is read as multiply-adds too, along the
line between uniform networks of two sizes. What a design could have shown is stated beside it.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]
LEVEL, POWER = 0.975, 0.8


@dataclass(frozen=True)
class Mean:
    """A mean, the variance of it, and the degrees of freedom of that."""

    value: float
    variance: float
    freedom: float

    @property
    def half(self) -> float:
        """Half of the 95% interval."""
        return student_quantile(self.freedom) * math.sqrt(self.variance)

    @property
    def detectable(self) -> float:
        """The true value, of either sign, that such data tell from zero in 80 of 100 trials."""
        quantiles = student_quantile(self.freedom) + student_quantile(self.freedom, POWER)
        return quantiles * math.sqrt(self.variance)

    def __str__(self) -> str:
        """Returns the mean and its interval."""
        return f"{self.value:+.2f} [{self.value - self.half:+.2f}, {self.value + self.half:+.2f}]"


def mean_of(sample: Sequence[float]) -> Mean:
    """Returns the mean of two or more independent values."""
    variance = statistics.variance(sample) / len(sample)
    return Mean(statistics.fmean(sample), variance, len(sample) - 1)


def welch(left: Mean, right: Mean) -> Mean:
    """Returns left minus right, with Satterthwaite's degrees of freedom."""
    variance = left.variance + right.variance
    parts = left.variance**2 / left.freedom + right.variance**2 / right.freedom
    freedom = variance**2 / parts if parts else left.freedom + right.freedom
    return Mean(left.value - right.value, variance, freedom)


def arm_mean(records: Sequence[Record], *, by_search: bool = True) -> Mean | None:
    """Returns an arm's accuracy in points; None for fewer than two independent values.

    Args:
        records: The arm's networks: "top1" in [0, 1], "seed", and "search" or None.
        by_search: Whether networks of one search count as one value, where there are searches.
    """
    groups: dict[Any, list[float]] = defaultdict(list)
    for record in records:
        searched = by_search and record["search"] is not None
        key = record["search"] if searched else ("seed", record["seed"])
        groups[key].append(100 * record["top1"])
    values = [statistics.fmean(group) for group in groups.values()]
    return mean_of(values) if len(values) > 1 else None


def log_macs(arm: Mean, uniform: Mean, larger: Mean, ratio: float) -> Mean | None:
    """Returns ln(MACs of the uniform network that is as accurate / MACs of the arm).

    The uniform curve is taken for straight in ln MACs between two points; variances go by the
    delta method. None where the larger network is not clearly the better one, so that a margin in
    points says nothing of multiply-adds.

    Args:
        arm: Accuracy of the arm, at the smaller network's MACs.
        uniform: Accuracy of the smaller uniform network.
        larger: Accuracy of the larger one.
        ratio: MACs of the larger over the smaller, above 1.
    """
    rise = welch(larger, uniform)
    if rise.value <= rise.half:
        return None
    slope, margin = rise.value / math.log(ratio), welch(arm, uniform)
    value = margin.value / slope
    of_slope = rise.variance / math.log(ratio) ** 2
    shared = uniform.variance / math.log(ratio)  # both hold the smaller network's error
    variance = (margin.variance + value**2 * of_slope - 2 * value * shared) / slope**2
    return Mean(value, max(variance, 0.0), min(margin.freedom, rise.freedom))


def as_factor(logs: Mean) -> str:
    """Returns a mean of logarithms as a factor and its interval."""
    low, middle, high = (math.exp(logs.value + sign * logs.half) for sign in (-1, 0, 1))
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def arms_of(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Returns arm -> its networks, in the order in which arms come."""
    arms: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        arms[record["arm"]].append(record)
    return arms


def arms_table(
    arms: Mapping[str, Sequence[Record]], baseline: str = "uniform", larger: str = "uniform, larger"
) -> list[str]:
    """Returns a Markdown table of all arms beside the baseline, the baseline first.

    Args:
        arms: Arm -> its networks: "top1", "macs", "seed", "search".
        baseline: The arm that others are compared with.
        larger: The baseline at more multiply-adds, which tells what points are worth.
    """
    lines = [
        f"| arm | MACs | top-1 (mean ± deviation) | minus {baseline} | the same, runs for searches"
        " | detectable | as MACs |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in sorted(arms, key=lambda name: name != baseline):
        top1 = [100 * r["top1"] for r in arms[arm]]
        scatter = f" ± {statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
        macs = statistics.fmean(r["macs"] for r in arms[arm])
        shown = f"{statistics.fmean(top1):.2f}{scatter} ({len(top1)})"
        cells = [""] * 4 if arm == baseline else _differences(arms, arm, baseline, larger)
        lines.append(f"| {arm} | {macs / 1e6:.3f}M | {shown} | {' | '.join(cells)} |")
    return lines


def _differences(
    arms: Mapping[str, Sequence[Record]], arm: str, baseline: str, larger: str
) -> list[str]:
    """Returns a row's difference, over searches and over networks; its power; in MACs."""
    this, base = (arm_mean(arms.get(name, [])) for name in (arm, baseline))
    if this is None or base is None:
        return ["too few", "", "", ""]
    plain = arm_mean(arms[arm], by_search=False)
    is_searched = any(record["search"] is not None for record in arms[arm])
    by_runs = str(welch(plain, base)) if is_searched and plain else ""
    difference = welch(this, base)
    as_macs = "" if arm == larger else _as_macs(arms, arm, baseline, larger)
    return [str(difference), by_runs, f"{difference.detectable:.2f}", as_macs]


def _as_macs(arms: Mapping[str, Sequence[Record]], arm: str, baseline: str, larger: str) -> str:
    means = [arm_mean(arms.get(name, [])) for name in (arm, baseline, larger)]
    if any(mean is None for mean in means):
        return ""
    at = [statistics.fmean(r["macs"] for r in arms[name]) for name in (larger, baseline)]
    equal = log_macs(*means, at[0] / at[1])
    return "cannot be told" if equal is None else as_factor(equal)


def student_quantile(freedom: float, level: float = LEVEL) -> float:
    """Returns the quantile of Student's t for real degrees of freedom, at least 1."""
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, freedom) < level else (low, middle)
    return high


def _student_cdf(t: float, freedom: float) -> float:
    """Returns P(T <= t) for t >= 0, by Simpson's rule over the angle atan(t / sqrt(freedom))."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    scale /= math.sqrt(math.pi)
    intervals, end = 200, math.atan(t / math.sqrt(freedom))
    values = [math.cos(end * i / intervals) ** (freedom - 1) for i in range(intervals + 1)]
    total = values[0] + values[-1] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2])
    return 0.5 + scale * end / intervals / 3 * total
