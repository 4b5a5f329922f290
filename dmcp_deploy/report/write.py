"""Run directories -> a report in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dmcp_deploy import __version__
from dmcp_deploy.artifact import SCHEMA_VERSION, check_writable, write_text
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.registry import choose
from dmcp_deploy.report.content import content
from dmcp_deploy.report.gather import gather_all
from dmcp_deploy.report.markdown import markdown
from dmcp_deploy.report.page import page

FORMATS = ("html", "md", "json")
KIND = "report"

#: Endings of files that hold something else, which a page must not take the place of.
_KEPT = (".json", ".jsonl", ".onnx", ".engine", ".safetensors", ".py", ".pth", ".pt")


def write_report(
    run_dirs: Sequence[Path | str], out: Path | str | None = None, form: str = "html"
) -> Path:
    """Writes the report of one run, or of several side by side; returns the file's path.

    Args:
        run_dirs: Run directories, finished or not.
        out: The file; by default "report.html" (or .md, .json) in the run directory of a single
            run, else in the current folder.
        form: "html", "md" or "json".

    Raises:
        DmcpError: A folder holds no run or a damaged file, the format is unknown, or the file
            cannot be written.
    """
    choose("--format", form, FORMATS)
    folder = Path(run_dirs[0]) if len(run_dirs) == 1 else Path()
    path = Path(out) if out is not None else folder / f"report.{form}"
    text = report_text(run_dirs, form)
    if form != "json" and path.suffix in _KEPT and path.exists():
        raise DmcpError(f"{path} would be lost: name a file that ends in .{form}.")
    check_writable(path, KIND if form == "json" else None)
    write_text(path, text)
    return path


def report_text(run_dirs: Sequence[Path | str], form: str = "html") -> str:
    """Returns the report of one run, or of several side by side, as text.

    Raises:
        DmcpError: A folder holds no run or a damaged file, or the format is unknown.
    """
    choose("--format", form, FORMATS)
    if not run_dirs:
        raise DmcpError("A report needs at least one run directory.")
    runs = gather_all([Path(folder) for folder in run_dirs])
    if form == "html":
        return page(runs)
    if form == "md":
        return markdown(runs)
    head = {"kind": KIND, "schema_version": SCHEMA_VERSION, "tool_version": __version__}
    return json.dumps({**head, **content(runs)}, indent=2, ensure_ascii=False) + "\n"
