"""The report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence

from dmcp_deploy.report.charts import Labels, Point
from dmcp_deploy.report.facts import RunFacts
from dmcp_deploy.report.markup import document, esc, table_html
from dmcp_deploy.report.pareto import Candidate, candidates, comparable, front_chart, runs_table
from dmcp_deploy.report.scale import number
from dmcp_deploy.report.sections import run_sections
from dmcp_deploy.units import format_macs


def page(runs: Sequence[RunFacts]) -> str:
    """Returns the page of one run, or of several side by side."""
    body = "".join(_run(facts, f"run{number}") for number, facts in enumerate(runs, 1))
    return document(_title(runs), (_side_by_side(runs) if len(runs) > 1 else "") + body)


def _title(runs: Sequence[RunFacts]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs side by side"
    request = runs[0].request
    return f"{request.network.model} at {request.budgets}"


def _run(facts: RunFacts, key: str) -> str:
    request = facts.request
    words = (
        f"{request.network.model} x{request.network.width_mult:g}, budget {request.budgets},"
        f" method {request.method}, data {request.data}, seed {request.seed}"
    )
    return (
        f'<article id="{key}"><h2>{esc(facts.name)}</h2><p class="asked">{esc(words)}</p>'
        f"{run_sections(facts, key)}</article>"
    )


def _side_by_side(runs: Sequence[RunFacts]) -> str:
    links = "".join(
        f'<li><a href="#run{place}">{esc(facts.name)}</a></li>'
        for place, facts in enumerate(runs, 1)
    )
    return (
        f'<nav aria-label="Runs"><ul>{links}</ul></nav><section aria-label="Side by side">'
        f'<div class="pair">{_pareto(runs)}</div>{table_html(runs_table(runs))}'
        "</section>"
    )


def _pareto(runs: Sequence[RunFacts]) -> str:
    placed = candidates(runs)
    timed = comparable(placed)
    left = [item.name for item in placed if item not in timed]
    text = "Up and to the left is better; the line joins the runs that none beats in both."
    note = f" Not measured on the same device, or not at all: {', '.join(left)}." if left else ""
    charts = ""
    if timed and timed[0].device is not None:
        words = f"{text} Measured on {', '.join(timed[0].device)}.{note}"
        labels = Labels("pareto-latency", "Top-1 against latency", words, "median ms", "top-1")
        charts += front_chart(labels, timed, _latency_ms, number, _point)
    if placed:
        labels = Labels("pareto-macs", "Top-1 against MACs", text, "multiply-adds", "top-1")
        charts += front_chart(labels, placed, lambda item: item.macs, format_macs, _point)
    elsewhere = [facts.name for facts in runs if facts.name not in {c.name for c in placed}]
    if elsewhere:
        charts += f'<p class="notice">Not trained to the end yet: {esc(", ".join(elsewhere))}.</p>'
    return charts


def _point(item: Candidate) -> Point:
    time = () if item.latency is None else (f"median {item.latency.median_ms:.3f} ms",)
    top1 = f"top-1 {item.top1:.2%} at {item.image_size} px"
    return Point(item.name, 0.0, 0.0, (top1, f"{format_macs(item.macs)} multiply-adds", *time))


def _latency_ms(item: Candidate) -> float:
    assert item.latency is not None
    return item.latency.median_ms
