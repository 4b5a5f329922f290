"""A comparison as one HTML page, and as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dmcp_deploy.comparison.cells import Entry
from dmcp_deploy.comparison.record import Comparison
from dmcp_deploy.comparison.rows import BASELINE, Row, full_line, rows, rows_table
from dmcp_deploy.comparison.strip import Strip, strip_chart
from dmcp_deploy.report.charts import Labels, Point, Series, scatter_chart
from dmcp_deploy.report.document import document
from dmcp_deploy.report.markup import Table, esc, table_html
from dmcp_deploy.report.pareto import frontier
from dmcp_deploy.report.scale import number, percent
from dmcp_deploy.report.tables import brief
from dmcp_deploy.text_table import columns
from dmcp_deploy.units import format_macs

_STRIPS = f"A dot for every seed, a bar at their mean; the line is the mean of {BASELINE} scaling."
_FRONT = (
    "Means over the seeds, with their range. Up and to the left is better; the line joins the rows"
    " that none beats in both, which are named."
)


def page(comparison: Comparison) -> str:
    """Returns the page: accuracies, Pareto fronts, the table, how it was made."""
    found = rows(comparison)
    budgets = list(dict.fromkeys(row.budget for row in found))
    strips = "".join(
        _strips(budget, [r for r in found if r.budget == budget]) for budget in budgets
    )
    parts = [
        f'<p class="asked">{esc(_asked(comparison))}</p>',
        *(f'<p class="notice">{esc(f"{k}: {v}")}</p>' for k, v in comparison.failures.items()),
        _section("Accuracy", f"<p>{esc(full_line(comparison))}</p>{strips}"),
        _section("Accuracy against cost", f'<div class="pair">{_fronts(found)}</div>'),
        _section("All methods", table_html(rows_table(found), caption=False) + _notes()),
        _section("Settings", table_html(_settings(comparison), caption=False)),
    ]
    return document(_title(comparison), "".join(parts))


def text(comparison: Comparison) -> str:
    """Returns the table of a comparison as text, with what failed."""
    table = rows_table(rows(comparison))
    numeric = [i for i in range(len(table.head)) if table.is_numeric(i)]
    lines = [columns([table.head, *table.rows], numeric)] if table.rows else []
    lines += [line for line in [full_line(comparison)] if line]
    return "\n".join([*lines, *(f"{cell}: {why}" for cell, why in comparison.failures.items())])


def _title(comparison: Comparison) -> str:
    asked = comparison.request
    return f"Search methods on {asked['model']} at {asked['flops']}"


def _asked(comparison: Comparison) -> str:
    asked = comparison.request
    words = [
        f"data {asked.get('data') or 'default'}",
        f"recipe {asked.get('recipe') or 'default'}",
        f"{asked['seeds']} seeds",
        f"searches start from {asked['weights'] or 'random'} weights",
        f"pruned networks from {asked['init']} weights",
    ]
    return "; ".join(words) + "; a star stands for training by in-place distillation."


def _section(title: str, body: str) -> str:
    return f'<section aria-label="{esc(title)}"><h3>{esc(title)}</h3>{body}</section>'


def _strips(budget: str, found: Sequence[Row]) -> str:
    strips = [
        Strip(
            str(row.entry),
            tuple(item.top1 for item in row.results),
            row.top1,
            row.entry == Entry(BASELINE),
        )
        for row in found
        if row.budget == budget
    ]
    return strip_chart(f"Top-1 at {budget}", _STRIPS, strips)


def _fronts(found: Sequence[Row]) -> str:
    charts = ""
    timed = [row for row in found if row.latency_ratio is not None]
    if timed:
        labels = Labels(
            "front-latency", "Top-1 against latency", _FRONT, "time / full network's time", "top-1"
        )
        charts += _front(labels, timed, lambda row: row.latency_ratio or 0.0, number)
    if found:
        labels = Labels("front-macs", "Top-1 against MACs", _FRONT, "multiply-adds", "top-1")
        charts += _front(labels, found, lambda row: row.macs, format_macs)
    return charts


def _front(
    labels: Labels, found: Sequence[Row], cost: Callable[[Row], float], show: Callable[[float], str]
) -> str:
    best = frontier(found, cost)
    points = [
        Point(
            f"{row.entry} at {row.budget}",
            cost(row),
            row.top1,
            (f"top-1 {row.top1:.2%}", f"{format_macs(row.macs)} multiply-adds"),
            0 if row in best else 1,
            min(item.top1 for item in row.results),
            max(item.top1 for item in row.results),
            row in best,
        )
        for row in found
    ]
    line = Series("Pareto front", tuple((cost(row), row.top1) for row in best), 0, "dash")
    groups = ("on the front", "behind it") if len(best) < len(found) else ("on the front",)
    return scatter_chart(labels, points, [line], groups, (show, percent))


def _notes() -> str:
    told = (
        f"Minus {BASELINE}: mean difference of top-1 in percentage points, seed by seed, with its"
        " 95% interval (Student's t). Before training: the sliced network, batch norms"
        " recalibrated. Latency ratio: to the full network, measured interleaved. Search steps:"
        " training steps with images; plans judged: candidate networks evaluated; minutes: on this"
        " machine, of the last process that worked on it."
    )
    return f"<small>{esc(told)}</small>"


def _settings(comparison: Comparison) -> Table:
    asked = [("asked", key, brief(value)) for key, value in comparison.request.items()]
    machine = [
        ("machine", key, brief(value))
        for key, value in comparison.environment.items()
        if value is not None
    ]
    return Table("Settings and stages", ("of", "what", "value"), (*asked, *machine))
