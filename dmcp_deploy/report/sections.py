"""The parts of a run's page: charts and tables, or what is missing and how to make it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator

from dmcp_deploy.bench.record import BenchRecord, compare
from dmcp_deploy.report import tables
from dmcp_deploy.report.certificate_part import certificate_part
from dmcp_deploy.report.charts import (
    COLOURS,
    Labels,
    Point,
    Series,
    bar_chart,
    line_chart,
    scatter_chart,
)
from dmcp_deploy.report.curves import curve, level, means_note, thinned, with_trend
from dmcp_deploy.report.facts import RunFacts
from dmcp_deploy.report.layers_part import layers_part
from dmcp_deploy.report.markup import esc, fold, lack_notice, section, table_html
from dmcp_deploy.report.reproduce import recipe_file
from dmcp_deploy.report.scale import percent
from dmcp_deploy.report.search_part import search_part
from dmcp_deploy.units import format_macs

_STEP = "step"


def run_sections(facts: RunFacts, key: str) -> str:
    """Returns all that is told of a run; `key` starts the ids of its parts."""
    parts = [
        ("Budget and channels", _channels(facts, key)),
        ("The search", search_part(facts, key)),
        ("Training", _training(facts, key)),
        *_certificate(facts),
        ("Latency", _latency(facts, key)),
        ("Layer by layer", layers_part(facts, key)),
        ("Parity and precision", _parity(facts)),
        ("Engines", _engines(facts)),
        *_input(facts),
        ("Environment", table_html(tables.environment_table(facts))),
        ("How to reproduce", _reproduce(facts)),
    ]
    return tiles(facts) + "".join(section(*part) for part in parts)


def tiles(facts: RunFacts) -> str:
    """Returns the figures that a reader looks for first."""
    shown = "".join(
        f'<div class="tile {kind}"><dt>{esc(name)}</dt><dd>{esc(value)}<small>{esc(note)}</small>'
        "</dd></div>"
        for name, value, note, kind in _tiles(facts)
    )
    stale = "".join(
        f'<p class="notice">Stage {esc(stage)} was done on a file that has been replaced since;'
        " <code>prune</code> on this run does it again.</p>"
        for stage in facts.stale
    )
    return f'<dl class="tiles">{shown}</dl>{stale}'


def _tiles(facts: RunFacts) -> Iterator[tuple[str, str, str, str]]:
    plan, accuracy, bench = facts.plan, facts.final_accuracy, facts.bench
    if plan is not None:
        note = f"of {format_macs(plan.full_macs)} multiply-adds"
        yield "Network", format_macs(plan.macs), note, ""
        for budget in plan.budgets():
            met, share = budget.share <= 1, f"{budget.share:.2%} of {budget.text}"
            yield "Budget", "met" if met else "missed", share, "good" if met else "bad"
    if accuracy is not None:
        note = f"on {accuracy.images} images at {accuracy.image_size} px"
        yield "Top-1", f"{accuracy.top1:.2%}", note, ""
    if bench is not None:
        batch = bench.batches[0]
        first, *others = bench.at_batch(batch)
        if others:
            second = compare(bench, batch)[0]
            note = f"{second.latency_ratio:.2f} of {first.name}'s time: {second.verdict}"
            yield f"Latency, batch {batch}", f"{others[0].median_ms:.2f} ms", note, ""
        full = f" of {format_macs(first.params)}" if others else ""
        yield "Parameters", format_macs((others or [first])[0].params), full.strip(), ""
    elif plan is not None:
        yield "Parameters", format_macs(plan.params), "", ""


def _channels(facts: RunFacts, key: str) -> str:
    plan = facts.plan
    if plan is None:
        return lack_notice(facts, "plan")
    names, keeps = list(plan.groups), list(plan.groups.values())
    kept = [keep.width for keep in keeps]
    count = sum(keep.width < keep.size for keep in keeps)
    words = f"{count} of {len(names)} groups are narrower than in {plan.network.model}."
    shares = (f"{one.share:.2%} of the budget of {one.text}. " for one in plan.budgets())
    words = " ".join([f"{''.join(shares)}{words}", *plan.notes()])
    group = "channel group, from input to output"
    absolute = bar_chart(
        Labels(f"{key}-channels", "Channels kept per group", words, group, "channels"),
        names,
        [("original", [keep.size for keep in keeps]), ("kept", kept)],
    )
    note = f"Widths are multiples of {plan.multiples()}, or full, where the group is larger."
    why = ""
    if plan.steps:
        note += " They are the last ones of the steps of the target's time."
        why = fold("Why these widths", table_html(tables.groups_table(plan)))
    share = bar_chart(
        Labels(f"{key}-shares", "Share kept", note, group, "of the original's channels"),
        names,
        [("original", [1.0] * len(names)), ("kept", [k.width / k.size for k in keeps])],
        percent,
    )
    return f'<div class="pair">{absolute}{share}</div>{why}'


def _training(facts: RunFacts, key: str) -> str:
    steps, charts = facts.train_steps, []
    losses = curve(steps, "loss")
    if losses:
        text = f"Loss of every batch over {len(steps)} steps.{means_note(len(steps))}"
        labels = Labels(f"{key}-loss", "Loss", text, _STEP, "loss")
        charts.append(line_chart(labels, with_trend("training batches", losses)))
    if top1 := curve(steps, "top1"):
        levels = []
        if facts.final_accuracy is not None:
            name = f"validation at the end, {facts.final_accuracy.top1:.2%}"
            levels.append(level(name, facts.final_accuracy.top1, top1, 2))
        if facts.majority_share is not None:
            name = f"most frequent class, {facts.majority_share:.2%}"
            levels.append(level(name, facts.majority_share, top1, 1))
        text = "Top-1 of every training batch, augmented; levels are on the validation images."
        labels = Labels(f"{key}-top1", "Accuracy", text, _STEP, "top-1")
        lines = with_trend("training batches", top1)
        charts.append(line_chart(labels, lines, levels, percent))
    table = table_html(tables.accuracy_table(facts), caption=True) if facts.accuracies else ""
    lost = sum(not math.isfinite(step.get("loss", 0.0)) for step in steps)
    if lost:
        table += f'<p class="notice">{lost} steps reported a loss that is no finite number.</p>'
    return f'{lack_notice(facts, "train")}<div class="pair">{"".join(charts)}</div>{table}'


def _certificate(facts: RunFacts) -> list[tuple[str, str]]:
    return [] if facts.certificate is None else [("Latency budget", certificate_part(facts))]


def _latency(facts: RunFacts, key: str) -> str:
    if facts.bench is None:
        return lack_notice(facts, "bench")
    charts = _latency_chart(facts.bench, key) + _rounds_chart(facts.bench, key)
    table = table_html(tables.bench_table(facts.bench))
    return f'<div class="pair">{charts}</div>{table}'


def _latency_chart(record: BenchRecord, key: str) -> str:
    text = (
        "Time and multiply-adds as ratios to the first network's, with the 95% interval. On the"
        " ideal line, time falls as much as the multiply-adds do; above it, time lags behind."
    )
    first = record.measured[0]
    points = [Point(first.name, 1.0, 1.0, ("reference of every batch",))]
    for number, batch in enumerate(record.batches):
        base, *others = record.at_batch(batch)
        for item, ratios in zip(others, compare(record, batch), strict=True):
            low, high = ratios.latency_low, ratios.latency_high
            tip = (
                f"{item.median_ms:.3f} ms against {base.median_ms:.3f} ms, batch {batch}",
                f"latency ratio {ratios.latency_ratio:.3f} [{low:.3f}, {high:.3f}]",
                f"FLOPs ratio {ratios.flops_ratio:.3f}, efficiency {ratios.efficiency:.3f}",
                ratios.verdict,
            )
            place = (ratios.flops_ratio, ratios.latency_ratio)
            points.append(Point(item.name, *place, tip, number % COLOURS, low, high))
    ideal = Series("ideal: as much faster as smaller", ((0.0, 0.0), (1.0, 1.0)), 3, "dash")
    labels = Labels(f"{key}-latency", "Latency against FLOPs", text, "FLOPs ratio", "latency ratio")
    groups = [f"batch {batch}" for batch in record.batches]
    return scatter_chart(labels, points, [ideal], groups, zero=(True, True))


def _rounds_chart(record: BenchRecord, key: str) -> str:
    batch = record.batches[0]
    networks = record.at_batch(batch)
    lines = [
        line
        for number, item in enumerate(networks[:COLOURS])
        for line in with_trend(item.name, thinned(tuple(enumerate(item.samples_ms))), number)
    ]
    load = record.environment.get("load_average")
    order = "each behind calls of its own" if record.alone else "network by network in turn"
    text = f"Every call at batch {batch}, {order}."
    text += means_note(len(networks[0].samples_ms))
    if load:
        text += f" The machine's load was {load[0]} when it began."
    labels = Labels(f"{key}-rounds", "Latency round by round", text, "round", "ms")
    return line_chart(labels, lines)


def _parity(facts: RunFacts) -> str:
    rows = facts.parities or facts.unjudged
    table = table_html(tables.parity_table(facts)) if rows else ""
    return table + "".join(lack_notice(facts, part) for part in ("slice", "export", "precisions"))


def _engines(facts: RunFacts) -> str:
    if not facts.engines:
        return lack_notice(facts, "engines")
    return table_html(tables.engines_table(facts.engines))


def _input(facts: RunFacts) -> list[tuple[str, str]]:
    if facts.fed is None:
        return []
    return [("What to feed", table_html(tables.input_table(facts.fed)))]


def _reproduce(facts: RunFacts) -> str:
    commands = "\n".join(map(_breakable, facts.commands))
    recipe = fold("recipe.json", f"<pre>{esc(recipe_file(facts.request))}</pre>")
    asked = fold("Settings and stages", table_html(tables.request_table(facts)))
    note = "Save the recipe below as <code>recipe.json</code>, then run:"
    return f"<p>{note}</p><pre>{commands}</pre>{recipe}{asked}"


def _breakable(text: str) -> str:
    """Returns a command that is broken into lines between its words alone."""
    words = (shlex.quote(word) for word in shlex.split(text))
    return " ".join(f'<span class="word">{esc(word)}</span>' for word in words)
