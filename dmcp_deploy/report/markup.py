"""HTML from values, everything escaped: the parts of a page, and the page round them."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from dmcp_deploy import __version__
from dmcp_deploy.report.facts import RunFacts


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


def document(title: str, body: str) -> str:
    """Returns a whole page under a title, which needs nothing beside itself.

    Nothing is fetched: the policy in its head lets the browser load nothing and run only the
    page's own script.

    Args:
        title: Its title, as text.
        body: What stands below the title, as HTML.
    """
    style, script = (
        resources.files("dmcp_deploy.report").joinpath(name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
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
{body}
</main>
<footer>Written by dmcp-deploy {esc(__version__)}. FLOPs are multiply-adds of convolution and
linear layers for one image.</footer>
<script>{script}</script>
</body>
</html>
"""


def section(title: str, body: str) -> str:
    """Returns a part of a page under its title."""
    return f'<section aria-label="{esc(title)}"><h3>{esc(title)}</h3>{body}</section>'


def lack_notice(facts: RunFacts, part: str) -> str:
    """Returns what a run lacks of a part, and the command that makes it; "" if it has it all."""
    lack = facts.lacks.get(part)
    if lack is None:
        return ""
    return f'<p class="notice">{esc(lack.what)} To make it: <code>{esc(lack.command)}</code></p>'


def esc(value: object) -> str:
    """Returns a value as text that is safe in HTML, attributes included."""
    return html.escape(str(value), quote=True)


def script_json(value: Any) -> str:
    """Returns JSON that is safe within a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table_html(table: Table, *, caption: bool = False) -> str:
    """Returns a table, in a box that scrolls where it is too wide, with or without its title."""
    count = len(table.head)
    kinds = [' class="n"' if table.is_numeric(i) else "" for i in range(count)]
    title = f"<caption>{esc(table.title)}</caption>" if caption else ""
    head = _row(table.head, ["th scope=col"] * count, kinds)
    tags = ["th scope=row", *["td"] * (count - 1)]
    rows = "\n".join(_row(row, tags, kinds) for row in table.rows)
    body = f"{title}<thead>{head}</thead><tbody>\n{rows}\n</tbody>"
    kind = "-".join(table.title.lower().split())
    return scroll_box(table.title, f'<table class="{esc(kind)}">{body}</table>')


def scroll_box(title: str, body: str) -> str:
    """Returns a box that scrolls sideways, so that the page does not have to."""
    label = f'role="region" tabindex="0" aria-label="{esc(title)}"'
    return f'<div class="scroll" {label}>{body}</div>'


def fold(summary: str, body: str) -> str:
    """Returns a part that is shown on demand."""
    return f"<details><summary>{esc(summary)}</summary>{body}</details>"


def _row(texts: Sequence[str], tags: Sequence[str], kinds: Sequence[str]) -> str:
    cells = (
        f"<{tag}{kind}>{esc(text)}</{tag[:2]}>"
        for text, tag, kind in zip(texts, tags, kinds, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"
