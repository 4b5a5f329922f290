"""How the numbers of a graph follow from the widths of the groups, told by a few of its graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd

from dmcp_deploy.bench.tables.probes import ProbedGroup, WidthForm, Widths
from dmcp_deploy.bench.tables.template import Count, Rule
from dmcp_deploy.onnxgraph.narrowing import AXIS, ELEMENT, Slot

#: The numbers of one graph.
Numbers = Mapping[Slot, int]
#: A number at each of some widths.
Row = tuple[int, ...]


@dataclass(frozen=True)
class Counting:
    """How the numbers of a graph change.

    Attributes:
        counts: The different ways.
        rules: Which number changes in which way.
        untold: Numbers that change in none that is known.
    """

    counts: tuple[Count, ...]
    rules: tuple[Rule, ...]
    untold: tuple[Slot, ...]


def find_counting(
    seen: Sequence[Numbers],
    widths: Sequence[Widths],
    groups: Mapping[str, ProbedGroup],
    forms: Iterable[WidthForm],
) -> Counting:
    """Returns how the numbers of a graph follow from the widths of the groups.

    Args:
        seen: The numbers of the graph at some widths, of the full network first.
        widths: These widths.
        groups: The groups.
        forms: What may be counted: channels of layers, and of single groups.
    """
    known = {_direction(_row(form, widths, groups)): form for form in reversed(list(forms))}
    counts: list[Count] = []
    number_of: dict[Row, int] = {}
    rules, untold = [], []
    for slot, row in _changing(seen):
        if row not in number_of and (count := _count(row, known, widths, groups)) is not None:
            number_of[row] = len(counts)
            counts.append(count)
        if row in number_of:
            rules.append(Rule(slot, number_of[row]))
        else:
            untold.append(slot)
    return Counting(tuple(counts), tuple(rules), tuple(untold))


def are_told_apart(
    forms: Iterable[WidthForm], widths: Sequence[Widths], groups: Mapping[str, ProbedGroup]
) -> bool:
    """Returns whether counts of different forms differ somewhere at some widths."""
    different = {_scaled(form): _direction(_row(form, widths, groups)) for form in forms}
    return len(set(different.values())) == len(different)


def _changing(seen: Sequence[Numbers]) -> list[tuple[Slot, Row]]:
    """Returns the numbers that change, each with what it is in each graph.

    Elements of a tensor that is cut are no numbers of their own.
    """
    rows = [(slot, tuple(numbers.get(slot, 0) for numbers in seen)) for slot in seen[0]]
    rows = [(slot, row) for slot, row in rows if len(set(row)) > 1]
    cut = {slot.name for slot, _ in rows if slot.kind == AXIS}
    return [(slot, row) for slot, row in rows if slot.kind != ELEMENT or slot.name not in cut]


def _count(
    row: Row,
    known: Mapping[Row, WidthForm],
    widths: Sequence[Widths],
    groups: Mapping[str, ProbedGroup],
) -> Count | None:
    form = known.get(_direction(row))
    if form is None or row[0] == 0:
        return None
    full = form.at(widths[0], groups)
    common = gcd(row[0], full)
    return Count(form, row[0] // common, full // common)


def _row(form: WidthForm, widths: Sequence[Widths], groups: Mapping[str, ProbedGroup]) -> Row:
    return tuple(form.at(each, groups) for each in widths)


def _direction(row: Row) -> Row:
    common = gcd(*row) or 1
    return tuple(number // common for number in row)


def _scaled(form: WidthForm) -> tuple[object, ...]:
    """Returns what forms have in common that differ by a factor alone."""
    common = gcd(form.fixed, *form.per_unit.values()) or 1
    per_unit = sorted((name, number // common) for name, number in form.per_unit.items())
    return form.fixed // common, tuple(per_unit)
