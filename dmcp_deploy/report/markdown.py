"""The report as Markdown, for pull requests and terminals."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dmcp_deploy.report import tables
from dmcp_deploy.report.certificate_part import certificate_table
from dmcp_deploy.report.facts import RunFacts
from dmcp_deploy.report.layers_part import layers_table
from dmcp_deploy.report.markup import Table
from dmcp_deploy.report.pareto import runs_table
from dmcp_deploy.report.reproduce import recipe_file
from dmcp_deploy.units import format_macs

#: What Markdown or HTML would read as markup.
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


def markdown(runs: Sequence[RunFacts]) -> str:
    """Returns the report as GitHub's Markdown."""
    blocks = [table_markdown(runs_table(runs))] if len(runs) > 1 else []
    for facts in runs:
        blocks += [f"# {_text(facts.name)}", _budget(facts)]
        blocks += [
            f"Stage {_text(stage)} was done on a file that is another one now."
            for stage in facts.stale
        ]
        blocks += [
            f"{_text(lack.what)} To make it:\n\n    {lack.command}" for lack in facts.lacks.values()
        ]
        for table in _tables(facts):
            blocks += [f"## {_text(table.title)}", table_markdown(table)]
        blocks += [
            "## How to reproduce",
            "With this as recipe.json:",
            _code(recipe_file(facts.request)),
            "run:",
            _code("\n".join(facts.commands)),
        ]
    return "\n\n".join(blocks) + "\n"


def table_markdown(table: Table) -> str:
    """Returns a table in GitHub's Markdown."""
    columns = range(len(table.head))
    rule = ["--:" if table.is_numeric(i) else "---" for i in columns]
    lines = [[_text(cell) for cell in table.head], rule]
    lines += [[_text(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _budget(facts: RunFacts) -> str:
    request, plan = facts.request, facts.plan
    words = f"{request.network.model}, budget {request.budgets}, method {request.method}"
    if plan is None:
        return _text(f"{words}.")
    words += f": {format_macs(plan.full_macs)} -> {format_macs(plan.macs)} multiply-adds"
    for one in plan.budgets():
        verdict = "met" if one.share <= 1 else "missed"
        words += f", {one.share:.2%} of the budget of {one.text}, which is {verdict}"
    return _text(" ".join([f"{words}.", *plan.notes()]))


def _tables(facts: RunFacts) -> list[Table]:
    all_tables = [
        tables.accuracy_table(facts),
        *([certificate_table(facts.certificate)] if facts.certificate is not None else []),
        *([tables.bench_table(facts.bench)] if facts.bench is not None else []),
        *([layers_table(facts.layers)] if facts.layers is not None else []),
        tables.parity_table(facts),
        tables.engines_table(facts.engines),
        *([tables.groups_table(facts.plan)] if facts.plan is not None else []),
        *([tables.input_table(facts.fed)] if facts.fed is not None else []),
        tables.environment_table(facts),
    ]
    return [table for table in all_tables if table.rows]


def _text(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """Returns an indented block: a fence could be closed by what stands in it."""
    return "\n".join(f"    {line}" for line in text.splitlines())
