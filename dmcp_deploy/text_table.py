"""Rows of words as columns of text."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def columns(rows: Sequence[tuple[str, ...]], right: Collection[int]) -> str:
    """Returns rows as lines of padded columns; those numbered in `right` end together."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(w) if i in right else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
