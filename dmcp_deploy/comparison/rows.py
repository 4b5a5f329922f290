"""Cells -> a row for every method and budget: means over seeds, beside uniform scaling."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dmcp_deploy.comparison.cells import Entry
from dmcp_deploy.comparison.record import CellResult, Comparison
from dmcp_deploy.comparison.statistics import Difference, deviation, paired_difference
from dmcp_deploy.report.markup import Table
from dmcp_deploy.units import format_macs

#: What the other methods are compared with, seed by seed.
BASELINE = "uniform"


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
        found = [item.latency.ratio for item in self.results if item.latency is not None]
        return statistics.fmean(found) if len(found) == len(self.results) else None

    def mean(self, value: Callable[[CellResult], float]) -> float:
        """Returns the mean of a value over the seeds."""
        return statistics.fmean(value(item) for item in self.results)


def rows(comparison: Comparison) -> list[Row]:
    """Returns the rows budget by budget, in each the most accurate first."""
    found: dict[tuple[str, Entry], list[CellResult]] = {}
    for item in comparison.results:
        found.setdefault((item.cell.budget, item.cell.entry), []).append(item)
    budgets = list(dict.fromkeys(budget for budget, _ in found))
    made = [
        Row(entry, budget, tuple(items), _gain(items, found.get((budget, Entry(BASELINE)), [])))
        for (budget, entry), items in found.items()
    ]
    return sorted(made, key=lambda row: (budgets.index(row.budget), -row.top1))


def rows_table(found: Sequence[Row]) -> Table:
    """Returns the rows as a table."""
    head = (
        *("budget", "method", "top-1", "deviation", "seeds", f"minus {BASELINE} [95%]"),
        *("before training", "MACs", "latency ratio", "median ms"),
        *("search steps", "plans judged", "search min"),
    )
    return Table("Methods", head, tuple(_cells(row) for row in found))


def full_line(comparison: Comparison) -> str:
    """Returns the full network in a sentence; empty if it was not trained here."""
    if not comparison.full:
        return ""
    found = [item.top1 for item in comparison.full]
    spread = f" ± {deviation(found):.2%}" if len(found) > 1 else ""
    return (
        f"The full network: top-1 {statistics.fmean(found):.2%}{spread}"
        f" ({_count(len(found), 'seed')}), {format_macs(comparison.full[0].macs)} multiply-adds."
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


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
