"""Whole runs that take seconds: a small network, a small image folder, the command line."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click.testing

import dmcp_deploy
from dmcp_deploy.cli.main import main
from dmcp_deploy.options.run import Compute

MODEL = "tiny_pipeline_net:tiny_pipeline_net"
BUDGET = "25%"

#: What a run of these tests is asked for, as options of the command line.
ASKED: dict[str, object] = {"input-size": 32, "batch-size": 8, "max-steps": 4}

#: What a child process needs to find this checkout and the networks of the tests.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(
        [str(Path(dmcp_deploy.__file__).parents[1]), str(Path(__file__).parent)]
    ),
    # Sums depend on the number of threads, so runs that are compared all have one.
    "OMP_NUM_THREADS": "1",
}


def asked(command: str, data: Path, out: Path, /, **changes: Any) -> list[str]:
    """Returns the arguments of `prune` or `search`; None as a change leaves an option out.

    They do not rehearse, which takes longer than all else here: no_rehearse=None lets them.
    """
    options = {"model": MODEL, "flops": BUDGET, "data": data, "out": out, **ASKED}
    options["no-rehearse"] = True
    options |= {name.replace("_", "-"): value for name, value in changes.items()}
    words = [command]
    for name, value in options.items():
        if value is not None and value is not False:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def library(data: Path, out: Path, /, **changes: Any) -> dict[str, Any]:
    """Returns the arguments of `dmcp_deploy.prune` or `search` for the same run."""
    options = {name.replace("-", "_"): value for name, value in ASKED.items()}
    options |= {"model": MODEL, "flops": BUDGET, "data": str(data), "out": out, **changes}
    return {**options, "compute": replace(changes.get("compute", Compute()), rehearse=False)}


def call(*arguments: object) -> click.testing.Result:
    """Runs the command line in this process; an exception that is no exit is raised."""
    words = [str(argument) for argument in arguments]
    return click.testing.CliRunner().invoke(main, words, catch_exceptions=False)


def succeed(*arguments: object) -> str:
    """Runs the command line in this process and returns what it prints."""
    result = call(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def refused(*arguments: object) -> str:
    """Returns the one sentence with which the command line refuses."""
    result = call(*arguments)
    assert result.exit_code in (1, 2), result.stdout
    assert "Traceback" not in result.stderr
    _, _, sentence = result.stderr.rpartition("Error: ")
    sentence = sentence.removesuffix("\n")
    assert "\n" not in sentence
    assert sentence[-1] in ".?"
    # What a library said stands in parentheses, and may be more than one sentence.
    assert not re.search(r"[.?!] [A-Z]", re.sub(r"\(.*\)", "", sentence)), sentence
    return sentence


def command_line(*arguments: object) -> list[str]:
    """Returns a command that runs the command line in a process of its own."""
    return [sys.executable, "-m", "dmcp_deploy", *map(str, arguments)]


def snapshot(folder: Path) -> dict[str, int]:
    """Returns the files below a folder with the time of their last change."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """Returns the files that differ between two snapshots."""
    return {name for name in {**before, **after} if before.get(name) != after.get(name)}
