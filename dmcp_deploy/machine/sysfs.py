"""What Linux tells of a machine in small files."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """Returns a file's text; "" where there is none, or it cannot be read.

    The zero byte that a device tree's strings end in is left out.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """Returns the number from 0 on that a file holds; None where it holds none."""
    text = read_text(path)
    return int(text) if text.isdecimal() else None
