"""HTML from values, everything escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows of text under a head.

    Attributes:
        title: What the table shows.
        head: A title for each column.
        rows: As many cells each.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def is_numeric(self, column: int) -> bool:
        """Returns whether a column holds numbers, which are set flush right."""
        cells = [row[column] for row in self.rows if row[column]]
        return bool(cells) and all(cell.lstrip("-+")[:1].isdigit() for cell in cells)


def esc(value: object) -> str:
    """Returns a value as text that is safe in HTML, attributes included."""
    return html.escape(str(value), quote=True)


def script_json(value: Any) -> str:
    """Returns JSON that is safe within a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table_html(table: Table, *, caption: bool = True) -> str:
    """Returns a table, in a box that scrolls where it is too wide, with or without its title."""
    numeric = [table.is_numeric(i) for i in range(len(table.head))]
    title = f"<caption>{esc(table.title)}</caption>" if caption else ""
    rows = "\n".join(_row(row, numeric) for row in table.rows)
    head = "".join(_cell("th", "scope=col", text, n) for text, n in zip_up(table.head, numeric))
    body = f"{title}<thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody>"
    kind = "-".join(table.title.lower().split())
    return scroll_box(table.title, f'<table class="{esc(kind)}">{body}</table>')


def scroll_box(title: str, body: str) -> str:
    """Returns a box that scrolls sideways, so that the page does not have to."""
    label = f'role="region" tabindex="0" aria-label="{esc(title)}"'
    return f'<div class="scroll" {label}>{body}</div>'


def fold(summary: str, body: str) -> str:
    """Returns a part that is shown on demand."""
    return f"<details><summary>{esc(summary)}</summary>{body}</details>"


def zip_up(cells: Sequence[str], numeric: Sequence[bool]) -> list[tuple[str, bool]]:
    """Returns the cells of a row, each with whether its column holds numbers."""
    return list(zip(cells, numeric, strict=True))


def _row(cells: Sequence[str], numeric: Sequence[bool]) -> str:
    first, *others = zip_up(cells, numeric)
    body = "".join(_cell("td", "", text, n) for text, n in others)
    return f"<tr>{_cell('th', 'scope=row', *first)}{body}</tr>"


def _cell(tag: str, attributes: str, text: str, is_number: bool) -> str:
    extra = f" {attributes}" if attributes else ""
    kind = ' class="n"' if is_number else ""
    return f"<{tag}{extra}{kind}>{esc(text)}</{tag}>"
