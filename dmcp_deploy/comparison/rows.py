"""Cells -> a row for every method and budget: means over seeds, beside uniform scaling."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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

#: Budget and row -> its cells.
_Cells = dict[tuple[str, Entry], list[CellResult]]


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

    def points(self) -> str:
        """Returns it in percentage points, with its interval where there is one."""
        mean = f"{100 * self.mean:+.2f}"
        if math.isinf(self.low):
            return mean
        return f"{mean} [{100 * self.low:+.2f}, {100 * self.high:+.2f}]"


@dataclass(frozen=True)
class Control:
    """A row with uniform widths, and how much more accurate another one is.

    Attributes:
        entry: The row with uniform widths.
        gain: Top-1 of the other row less that of this one.
    """

    entry: Entry
    gain: Difference


@dataclass(frozen=True)
class Row:
    """A method at one budget.

    Attributes:
        entry: The method.
        budget: The budget as text.
        results: Its cells, seed by seed.
        gain: Top-1 less that of uniform scaling over the seeds that both have; None without.
        control: The same against the uniform row that shares the most with it; None without.
    """

    entry: Entry
    budget: str
    results: tuple[CellResult, ...]
    gain: Difference | None
    control: Control | None = None

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
    cells: _Cells = {}
    for item in comparison.results:
        cells.setdefault((item.cell.budget, item.cell.entry), []).append(item)
    budgets = list(dict.fromkeys(budget for budget, _ in cells))
    rows = [_row(cells, budget, entry) for budget, entry in cells]
    return sorted(rows, key=lambda row: (budgets.index(row.budget), -row.top1))


def rows_table(rows: Sequence[Row]) -> Table:
    """Returns the rows as a table; columns in which no row has anything are left out."""
    filled = {name: [cell(row) for row in rows] for name, cell in _COLUMNS.items()}
    shown = {name: cells for name, cells in filled.items() if any(cells) or not rows}
    return Table("Methods", tuple(shown), tuple(zip(*shown.values(), strict=True)))


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


def _row(cells: _Cells, budget: str, entry: Entry) -> Row:
    ours = cells[budget, entry]
    gain = None if entry == Entry(BASELINE) else _gain(ours, cells.get((budget, Entry(BASELINE))))
    gains = ((other, _gain(ours, cells.get((budget, other)))) for other in _controls(entry))
    control = next((Control(other, found) for other, found in gains if found is not None), None)
    return Row(entry, budget, tuple(ours), gain, control)


def _controls(entry: Entry) -> list[Entry]:
    """Returns the rows with uniform widths to compare a row with, the nearest to it first.

    The nearest is cut out of the same trained weights and trained alike; then comes the one that
    is trained alike, where that is not by labels alone.
    """
    if entry.method == BASELINE:
        return []
    same_weights = Entry(BASELINE, entry.distill, entry.supernet or entry.method)
    return [same_weights, Entry(BASELINE, distill=True)] if entry.distill else [same_weights]


def _gain(ours: Sequence[CellResult], theirs: Sequence[CellResult] | None) -> Difference | None:
    other = {item.cell.seed: item.top1 for item in theirs or ()}
    pairs = [(item.top1, other[item.cell.seed]) for item in ours if item.cell.seed in other]
    return paired_difference(*zip(*pairs, strict=True)) if pairs else None


def _minus_control(row: Row) -> str:
    if row.control is None:
        return ""
    return f"{row.control.gain.points()} {row.control.entry}"


def _deviation(row: Row) -> str:
    spread = deviation([item.top1 for item in row.results])
    return "" if math.isnan(spread) else f"{spread:.2%}"


def _untrained(row: Row) -> str:
    tops = [item.untrained_top1 for item in row.results if item.untrained_top1 is not None]
    return f"{statistics.fmean(tops):.2%}" if tops else ""


def _measured_share(row: Row) -> str:
    """Returns the share of its budget in time that was measured, with the verdicts."""
    kept = [item.time_kept for item in row.results if item.time_kept is not None]
    shares = [one.measured_ms / one.limit_ms for one in kept if one.measured_ms is not None]
    verdicts = Counter(one.verdict for one in kept)
    told = ", ".join(f"{verdict} {count}" for verdict, count in verdicts.items())
    return f"{statistics.fmean(shares):.1%} ({told})" if shares else told


def _median_ms(row: Row) -> str:
    times = [item.latency.median_ms for item in row.results if item.latency is not None]
    return f"{statistics.fmean(times):.3f}" if times else ""


#: Title of a column -> what a row has there.
_COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "budget": lambda row: row.budget,
    "method": lambda row: str(row.entry),
    "top-1": lambda row: f"{row.top1:.2%}",
    "deviation": _deviation,
    "seeds": lambda row: str(len(row.results)),
    f"minus {BASELINE} [95%]": lambda row: "" if row.gain is None else row.gain.points(),
    "minus its control [95%]": _minus_control,
    "before training": _untrained,
    "MACs": lambda row: format_macs(row.macs),
    "of the budget": lambda row: f"{row.mean(lambda item: item.budget_share):.1%}",
    "measured": _measured_share,
    "latency ratio": lambda row: "" if row.latency_ratio is None else f"{row.latency_ratio:.3f}",
    "median ms": _median_ms,
    "search steps": lambda row: f"{row.mean(lambda item: item.search_steps):.0f}",
    "plans judged": lambda row: f"{row.mean(lambda item: item.plans_judged):.0f}",
    "search min": lambda row: f"{row.mean(lambda item: item.search_s) / 60:.1f}",
}


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
