"""A comparison as one HTML page, and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dmcp_deploy.comparison.record import Comparison
from dmcp_deploy.comparison.rows import BASELINE, Row, full_line, method_rows, rows_table
from dmcp_deploy.report.charts import Labels, Point
from dmcp_deploy.report.markup import Table, document, esc, section, table_html
from dmcp_deploy.report.pareto import front_chart
from dmcp_deploy.report.scale import Axis, axis, number, percent
from dmcp_deploy.report.tables import brief
from dmcp_deploy.text_table import columns
from dmcp_deploy.units import format_macs

_STRIPS = f"A dot for every seed, a bar at their mean; the line is the mean of {BASELINE} scaling."
_NOTE = (
    f"Minus {BASELINE}: mean difference of top-1 in percentage points, seed by seed, with its"
    " 95% interval (Student's t). Minus its control: the same against the uniform row that is cut"
    " out of the same trained weights, or else trained alike. Before training: the sliced network,"
    " batch norms recalibrated. Of the budget: as the search counts or predicts it. Measured: the"
    " share of a budget in time, and the certificates' verdicts. Latency ratio: to the full"
    " network, measured interleaved. Search steps: training steps with images; plans judged:"
    " candidate networks evaluated; minutes: on this machine, of the last process that worked on"
    " it."
)
#: Rows whose multiply-adds differ by less than this factor have nothing to show against them.
_ALIKE = 1.05
_FRONT = (
    "Means over the seeds, with their range. Up and to the left is better; the line joins the rows"
    " that none beats in both, which are named."
)


def page(comparison: Comparison) -> str:
    """Returns the page: accuracies, Pareto fronts, the table, how it was made."""
    rows = method_rows(comparison)
    budgets = list(dict.fromkeys(row.budget for row in rows))
    strips = "".join(_strips(budget, [r for r in rows if r.budget == budget]) for budget in budgets)
    asked = comparison.request
    parts = [
        f'<p class="asked">{esc(_asked(comparison))}</p>',
        *(f'<p class="notice">{esc(f"{k}: {v}")}</p>' for k, v in comparison.failures.items()),
        section("Accuracy", f"<p>{esc(full_line(comparison))}</p>{strips}"),
        section("Accuracy against cost", f'<div class="pair">{_fronts(rows)}</div>'),
        section(
            "All methods",
            f"{table_html(rows_table(rows))}<small>{esc(_NOTE)}</small>",
        ),
        section("Settings", table_html(_settings(comparison))),
    ]
    title = f"Search methods on {asked['model']} at {_budgets(asked)}"
    return document(title, "".join(parts))


def text(comparison: Comparison) -> str:
    """Returns the table of a comparison as text, with what failed."""
    table = rows_table(method_rows(comparison))
    numeric = [i for i in range(len(table.head)) if table.is_numeric(i)]
    lines = [columns([table.head, *table.rows], numeric)] if table.rows else []
    lines += [line for line in [full_line(comparison)] if line]
    return "\n".join([*lines, *(f"{cell}: {why}" for cell, why in comparison.failures.items())])


def _asked(comparison: Comparison) -> str:
    asked = comparison.request
    words = [
        f"data {asked.get('data') or 'default'}",
        f"recipe {asked.get('recipe') or 'default'}",
        f"{asked['seeds']} seed{'' if asked['seeds'] == 1 else 's'}",
        f"searches start from {asked['weights'] or 'random'} weights",
        f"pruned networks from {asked['init']} weights",
    ]
    return "; ".join(words) + (
        "; a star stands for training by in-place distillation, and a"
        " name behind an @ for the search whose weights are cut."
    )


def _budgets(asked: Mapping[str, Any]) -> str:
    said = {"flops": "{}", "latency": "{} of time", "params": "{} of the parameters"}
    return " and ".join(words.format(asked[n]) for n, words in said.items() if asked.get(n))


def _fronts(rows: Sequence[Row]) -> str:
    charts = ""
    timed = [row for row in rows if row.latency_ratio is not None]
    if timed:
        labels = Labels(
            "front-latency", "Top-1 against latency", _FRONT, "time / full network's time", "top-1"
        )
        charts += front_chart(
            labels, timed, lambda row: row.latency_ratio or 0.0, number, _point, names_best=True
        )
    if rows and max(row.macs for row in rows) > _ALIKE * min(row.macs for row in rows):
        labels = Labels("front-macs", "Top-1 against MACs", _FRONT, "multiply-adds", "top-1")
        charts += front_chart(
            labels, rows, lambda row: row.macs, format_macs, _point, names_best=True
        )
    return charts


def _point(row: Row) -> Point:
    tops = [item.top1 for item in row.results]
    tip = (f"top-1 {row.top1:.2%}", f"{format_macs(row.macs)} multiply-adds")
    name = f"{row.entry} at {row.budget}"
    return Point(name, 0.0, 0.0, tip, low=min(tops), high=max(tops))


def _settings(comparison: Comparison) -> Table:
    asked = [("asked", key, brief(value)) for key, value in comparison.request.items()]
    machine = [
        ("machine", key, brief(value))
        for key, value in comparison.environment.items()
        if value is not None
    ]
    return Table("Settings and stages", ("of", "what", "value"), (*asked, *machine))


def _strips(budget: str, rows: Sequence[Row]) -> str:
    """Returns a strip for every method over one axis: a dot for each seed, a bar at their mean.

    A line runs through all of them at the mean of what the others are compared with.
    """
    scale = axis([item.top1 for row in rows for item in row.results], percent)
    lines = [scale.place(row.top1) for row in rows if row.is_baseline]
    body = "".join(_strip(row, scale, lines) for row in rows)
    ticks = "".join(
        f'<text x="{scale.place(tick):.3f}%" y="12" text-anchor="middle">'
        f"{esc(percent(tick))}</text>"
        for tick in scale.ticks
    )
    title = f"Top-1 at {budget}"
    return (
        f'<figure class="strips"><figcaption><h4>{esc(title)}</h4><p>{esc(_STRIPS)}</p>'
        f'</figcaption><div class="strip-rows">{body}<span></span>'
        f'<svg class="strip">{ticks}</svg></div></figure>'
    )


def _strip(row: Row, scale: Axis, lines: Sequence[float]) -> str:
    tops = [item.top1 for item in row.results]
    grid = "".join(
        f'<line class="grid" x1="{x:.3f}%" x2="{x:.3f}%" y2="100%"/>'
        for x in map(scale.place, scale.ticks)
    )
    marks = "".join(
        f'<line class="line faint c1" x1="{x:.3f}%" x2="{x:.3f}%" y2="100%"/>' for x in lines
    )
    dots = "".join(f'<circle cx="{scale.place(top1):.3f}%" cy="50%" r="4"/>' for top1 in tops)
    mean = f"{scale.place(row.top1):.3f}%"
    bar = f'<line class="mean" x1="{mean}" x2="{mean}" y1="15%" y2="85%"/>'
    told = f"{row.entry}: mean {row.top1:.2%} of {', '.join(f'{top1:.2%}' for top1 in tops)}"
    colour = "c1" if row.is_baseline else "c0"
    return (
        f'<span class="strip-name">{esc(row.entry)}</span>'
        f'<svg class="strip {colour}" role="img" aria-label="{esc(told)}">'
        f"<title>{esc(told)}</title>{grid}{marks}{dots}{bar}</svg>"
    )
