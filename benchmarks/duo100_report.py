"""What Duo-100's raw records say: differences with intervals, in points and in multiply-adds.

The analysis is fixed before the run. Primary: DMCP minus uniform at the first budget, by Welch's
interval, searches as a random effect: DMCP's sample is the mean of each search's networks.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
LEVEL = 0.975
#: Arms whose difference from "uniform" is shown, in this order.
ARMS = ("dmcp", "dmcp sigmoid", "budget-only", "uniform, last kept", "uniform, larger")
SEARCHED = ("dmcp", "dmcp sigmoid")


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


def arm_mean(records: Sequence[Record], *, by_search: bool = True) -> Mean | None:
    """Returns an arm's accuracy in points; None for fewer than two independent values.

    Args:
        records: The arm's networks.
        by_search: Whether networks of one search count as one value, where there are searches.
    """
    groups: dict[Any, list[float]] = defaultdict(list)
    for record in records:
        searched = by_search and record["search"] is not None
        key = record["search"] if searched else ("seed", record["seed"])
        groups[key].append(100 * record["top1"])
    values = [statistics.fmean(group) for group in groups.values()]
    return mean_of(values) if len(values) > 1 else None


def report(content: dict[str, Any]) -> str:
    """Returns the results as Markdown, computed from the raw records alone."""
    dense = [r for r in content["records"] if r["kind"] == "dense"]
    searches = [r for r in content["records"] if r["kind"] == "search"]
    lines = [f"{content.get('device')}, steps: {content.get('steps')}", ""]
    for budget in dict.fromkeys(r["budget"] for r in dense):
        lines += [*_budget_table([r for r in dense if r["budget"] == budget], budget), ""]
    lines += _search_table(searches)
    lines += [f"- left out: {r['what']}: {r['why']}" for r in content["records"] if "why" in r]
    return "\n".join(lines)


def _budget_table(dense: list[Record], budget: float) -> list[str]:
    arms: dict[str, list[Record]] = defaultdict(list)
    for record in dense:
        arms[record["arm"]].append(record)
    lines = [
        f"budget {budget:.0%}",
        "",
        "| arm | MACs | top-1 (mean ± deviation) | minus uniform | the same, runs for searches"
        " | as MACs |",
        "|---|---|---|---|---|---|",
    ]
    for arm in ("uniform", *ARMS):
        if arms[arm]:
            top1 = [100 * r["top1"] for r in arms[arm]]
            scatter = f" ± {statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
            macs = statistics.fmean(r["macs"] for r in arms[arm])
            shown = f"{statistics.fmean(top1):.2f}{scatter} ({len(top1)})"
            cells = _differences(arms, arm) if arm != "uniform" else ["", "", ""]
            lines.append(f"| {arm} | {macs / 1e6:.3f}M | {shown} | {' | '.join(cells)} |")
    return lines


def _differences(arms: dict[str, list[Record]], arm: str) -> list[str]:
    own, uniform, larger = (arm_mean(arms[name]) for name in (arm, "uniform", "uniform, larger"))
    if own is None or uniform is None:
        return ["too few", "", ""]
    plain = arm_mean(arms[arm], by_search=False)
    by_runs = str(welch(plain, uniform)) if arm in SEARCHED and plain else ""
    as_macs = ""
    if larger is not None and arm != "uniform, larger":
        at = [statistics.fmean(r["macs"] for r in arms[n]) for n in ("uniform, larger", "uniform")]
        equal = log_macs(own, uniform, larger, at[0] / at[1])
        as_macs = "cannot be told" if equal is None else _factor(equal)
    return [str(welch(own, uniform)), by_runs, as_macs]


def _factor(logs: Mean) -> str:
    low, middle, high = (math.exp(logs.value + sign * logs.half) for sign in (-1, 0, 1))
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def _search_table(searches: list[Record]) -> list[str]:
    if not searches:
        return []
    names = list(dict.fromkeys(name for r in searches for name in r["losses"]))
    lines = [
        "Loss on the searched supernet, batch norms recalibrated:",
        "",
        f"| budget | search | E[MACs]/budget | {' | '.join(names)} | DMCP, uniform beat |",
        "|---|---|---|" + "---|" * (len(names) + 1),
    ]
    for record in searches:
        cells = [f"{record['losses'][n]:.4f}" if n in record["losses"] else "" for n in names]
        random = record["random_losses"]
        beaten = [sum(record["losses"][n] < loss for loss in random) for n in ("dmcp", "uniform")]
        name = f"{record['seed']} {record['transition']}"
        head = f"| {record['budget']:.0%} | {name} | {record['expected_share']:.3f}"
        lines.append(f"{head} | {' | '.join(cells)} | {beaten[0]}, {beaten[1]} of {len(random)} |")
    return [*lines, ""]
