"""Cells -> a row for every method and budget: means over seeds, beside uniform scaling."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dmcp_deploy.comparison.cells import Entry
from dmcp_deploy.comparison.record import CellResult, Comparison
from dmcp_deploy.report.markup import Table
from dmcp_deploy.units import format_macs

#: What the other methods are compared with, seed by seed.
BASELINE = "uniform"

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


@dataclass(frozen=True)
class Row:
    """A method at one budget.

    Attributes:
        entry: The method.
        budget: The budget as text.
        results: Its cells, seed by seed.
        gain: Top-1 less that of uniform scaling over the seeds that both have; None without.
    """

    entry: Entry
    budget: str
    results: tuple[CellResult, ...]
    gain: Difference | None

    @property
    def is_baseline(self) -> bool:
        """Whether the others are compared with it."""
        return self.entry == Entry(BASELINE)

    @property
    def top1(self) -> float:
        """Mean accuracy in [0, 1]."""
        return self.mean(lambda item: item.top1)

    @property
    def macs(self) -> float:
        """Mean multiply-adds."""
        return self.mean(lambda item: item.macs)

    @property
    def latency_ratio(self) -> float | None:
        """Mean ratio of the time to the full network's; None if a cell is not measured."""
        ratios = [item.latency.ratio for item in self.results if item.latency is not None]
        return statistics.fmean(ratios) if len(ratios) == len(self.results) else None

    def mean(self, value: Callable[[CellResult], float]) -> float:
        """Returns the mean of a value over the seeds."""
        return statistics.fmean(value(item) for item in self.results)


def method_rows(comparison: Comparison) -> list[Row]:
    """Returns the rows budget by budget, in each the most accurate first."""
    cells: dict[tuple[str, Entry], list[CellResult]] = {}
    for item in comparison.results:
        cells.setdefault((item.cell.budget, item.cell.entry), []).append(item)
    budgets = list(dict.fromkeys(budget for budget, _ in cells))
    rows = [
        Row(entry, budget, tuple(items), _gain(items, cells.get((budget, Entry(BASELINE)), [])))
        for (budget, entry), items in cells.items()
    ]
    return sorted(rows, key=lambda row: (budgets.index(row.budget), -row.top1))


def rows_table(rows: Sequence[Row]) -> Table:
    """Returns the rows as a table."""
    head = (
        *("budget", "method", "top-1", "deviation", "seeds", f"minus {BASELINE} [95%]"),
        *("before training", "MACs", "latency ratio", "median ms"),
        *("search steps", "plans judged", "search min"),
    )
    return Table("Methods", head, tuple(map(_cells, rows)))


def full_line(comparison: Comparison) -> str:
    """Returns the full network in a sentence; empty if it was not trained here."""
    if not comparison.full:
        return ""
    tops = [item.top1 for item in comparison.full]
    spread = f" ± {deviation(tops):.2%}" if len(tops) > 1 else ""
    seeds = f"{len(tops)} seed{'' if len(tops) == 1 else 's'}"
    return (
        f"The full network: top-1 {statistics.fmean(tops):.2%}{spread} ({seeds}),"
        f" {format_macs(comparison.full[0].macs)} multiply-adds."
    )


def _gain(ours: Sequence[CellResult], theirs: Sequence[CellResult]) -> Difference | None:
    other = {item.cell.seed: item.top1 for item in theirs}
    pairs = [(item.top1, other[item.cell.seed]) for item in ours if item.cell.seed in other]
    if not pairs or (ours and ours[0].cell.entry == Entry(BASELINE)):
        return None
    return paired_difference(*zip(*pairs, strict=True))


def _cells(row: Row) -> tuple[str, ...]:
    spread = deviation([item.top1 for item in row.results])
    untrained = [item.untrained_top1 for item in row.results if item.untrained_top1 is not None]
    times = [item.latency.median_ms for item in row.results if item.latency is not None]
    ratio = row.latency_ratio
    return (
        row.budget,
        str(row.entry),
        f"{row.top1:.2%}",
        "" if math.isnan(spread) else f"{spread:.2%}",
        str(len(row.results)),
        "" if row.gain is None else _points(row.gain),
        f"{statistics.fmean(untrained):.2%}" if untrained else "",
        format_macs(row.macs),
        "" if ratio is None else f"{ratio:.3f}",
        f"{statistics.fmean(times):.3f}" if times else "",
        f"{row.mean(lambda item: item.search_steps):.0f}",
        f"{row.mean(lambda item: item.plans_judged):.0f}",
        f"{row.mean(lambda item: item.search_s) / 60:.1f}",
    )


def _points(gain: Difference) -> str:
    """Returns a difference in percentage points, with its interval where there is one."""
    mean = f"{100 * gain.mean:+.2f}"
    if math.isinf(gain.low):
        return mean
    return f"{mean} [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"


def deviation(values: Sequence[float]) -> float:
    """Returns the standard deviation of a sample; NaN for a single value."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Returns how much more ours are than theirs; value i of both is of the same seed."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    count, mean = len(differences), statistics.fmean(differences)
    if count == 1:
        return Difference(mean, -math.inf, math.inf)
    # Above 30 degrees of freedom the last quantile is on the safe side.
    quantile = _T[min(count - 1, len(_T)) - 1]
    half = quantile * statistics.stdev(differences) / math.sqrt(count)
    return Difference(mean, mean - half, mean + half)
