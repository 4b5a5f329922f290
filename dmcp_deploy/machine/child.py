"""Processes whose end is waited for no longer than a given time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_KILL_S = 2.0


@dataclass(frozen=True)
class Answer:
    """How a command ended.

    Attributes:
        code: Its exit code, minus the signal that ended it; None if it was still running.
        text: What it printed on both streams.
    """

    code: int | None
    text: str


def run_bounded(command: Sequence[str], timeout_s: float) -> Answer:
    """Returns a command's answer; nothing is raised, whatever becomes of it.

    Args:
        command: The program and its arguments.
        timeout_s: After this many seconds it and what it has started are killed.
    """
    try:
        # A file, since a pipe stays open as long as any grandchild does.
        with tempfile.TemporaryFile() as printed:
            code = _run(command, printed.fileno(), timeout_s)
            printed.seek(0)
            return Answer(code, printed.read().decode(errors="replace"))
    except OSError as err:
        return Answer(127, str(err))


def ask_python(code: str, timeout_s: float) -> dict[str, Any]:
    """Returns what Python code, run in a process of its own, hands to `say`.

    It is {"values": [...]}, as JSON values, or {"problem": "..."}: what the code raised, or how
    its process ended without a word.

    Args:
        code: Python that calls say(...) with what it found.
        timeout_s: After this many seconds the process is killed.
    """
    answer = run_bounded([sys.executable, "-c", _SAY + code], timeout_s)
    for line in reversed(answer.text.splitlines()):
        if line.startswith(_MARK):
            said: dict[str, Any] = json.loads(line.removeprefix(_MARK))
            return said
    return {"problem": _silence(answer.code, answer.text, timeout_s)}


def _run(command: Sequence[str], output: int, timeout_s: float) -> int | None:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # A process that a broken driver holds in the kernel does not end even then.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_KILL_S)


def _silence(code: int | None, text: str, timeout_s: float) -> str:
    if code is None:
        return f"it was not done after {timeout_s:g} s"
    last = (text.strip().splitlines() or ["it printed nothing"])[-1][:200]
    how = f"exit code {code}" if code >= 0 else f"{signal.strsignal(-code) or f'signal {-code}'}"
    return f"it ends the process with {how} ({last})"


_MARK = "dmcp-deploy found: "

_SAY = f"""
import json
import sys

def say(*values):
    print("\\n{_MARK}" + json.dumps({{"values": values}}), flush=True)

def say_problem(kind, err, traceback):
    name = "" if kind.__name__ == "DmcpError" else kind.__name__ + ": "
    problem = name + " ".join(str(err).split())
    print("\\n{_MARK}" + json.dumps({{"problem": problem[:500]}}), flush=True)

sys.excepthook = say_problem
"""
