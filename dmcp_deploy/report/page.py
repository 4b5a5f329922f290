"""The report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from importlib import resources

from dmcp_deploy import __version__
from dmcp_deploy.report.charts import Labels, Point, Series, scatter_chart
from dmcp_deploy.report.facts import RunFacts
from dmcp_deploy.report.markup import esc, table_html
from dmcp_deploy.report.pareto import Candidate, candidates, comparable, frontier, runs_table
from dmcp_deploy.report.scale import number, percent
from dmcp_deploy.report.sections import run_sections
from dmcp_deploy.units import format_macs


def page(runs: Sequence[RunFacts]) -> str:
    """Returns the page of one run, or of several side by side.

    Nothing is fetched: the policy in its head lets the browser load nothing and run only the
    page's own script.
    """
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    title = _title(runs)
    body = "".join(_run(facts, f"run{number}") for number, facts in enumerate(runs, 1))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{esc(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{esc(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{esc(title)}</h1>
{_side_by_side(runs) if len(runs) > 1 else ""}{body}
</main>
<footer>Written by dmcp-deploy {esc(__version__)}. FLOPs are multiply-adds of convolution and
linear layers for one image.</footer>
<script>{script}</script>
</body>
</html>
"""


def _title(runs: Sequence[RunFacts]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs side by side"
    request = runs[0].request
    return f"{request.network.model} at {request.budget}"


def _run(facts: RunFacts, key: str) -> str:
    request = facts.request
    words = (
        f"{request.network.model} x{request.network.width_mult:g}, budget {request.budget},"
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
        f'<div class="pair">{_pareto(runs)}</div>{table_html(runs_table(runs), caption=False)}'
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
        charts += _chart(labels, timed, _latency_ms, number)
    if placed:
        labels = Labels("pareto-macs", "Top-1 against MACs", text, "multiply-adds", "top-1")
        charts += _chart(labels, placed, _macs, format_macs)
    elsewhere = [facts.name for facts in runs if facts.name not in {c.name for c in placed}]
    if elsewhere:
        charts += f'<p class="notice">Not trained to the end yet: {esc(", ".join(elsewhere))}.</p>'
    return charts


def _chart(
    labels: Labels,
    found: Sequence[Candidate],
    cost: Callable[[Candidate], float],
    show: Callable[[float], str],
) -> str:
    best = frontier(found, cost)
    points = [
        Point(item.name, cost(item), item.top1, _tip(item), 0 if item in best else 1)
        for item in found
    ]
    line = Series("Pareto front", tuple((cost(item), item.top1) for item in best), 0, "dash")
    groups = ("on the front", "behind it") if len(best) < len(found) else ("on the front",)
    return scatter_chart(labels, points, [line], groups, (show, percent))


def _tip(item: Candidate) -> tuple[str, ...]:
    time = () if item.latency is None else (f"median {item.latency.median_ms:.3f} ms",)
    top1 = f"top-1 {item.top1:.2%} at {item.image_size} px"
    return (top1, f"{format_macs(item.macs)} multiply-adds", *time)


def _latency_ms(item: Candidate) -> float:
    assert item.latency is not None
    return item.latency.median_ms


def _macs(item: Candidate) -> float:
    return float(item.macs)


def _asset(name: str) -> str:
    return resources.files("dmcp_deploy.report").joinpath(name).read_text(encoding="utf-8")
