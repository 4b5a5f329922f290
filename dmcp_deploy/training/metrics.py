"""Figures of a run, step by step: JSON lines, and TensorBoard on request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import write_text
from dmcp_deploy.errors import DmcpError, reason_of


class Metrics:
    """A file of JSON lines, one per report; a context manager.

    When a run resumes at an earlier step than its last report, the reports in between are
    dropped, so that every step stands in the file once.
    """

    def __init__(self, path: Path | None, from_step: int = 0, tensorboard: bool = False) -> None:
        """Opens the file to go on at a step; None for a process that reports nothing."""
        self._path = path
        self._file: FileIO | None = None
        self._board: Any = None
        if path is None:
            return
        kept = [line for line in _lines(path) if 0 <= _step(line) < from_step]
        write_text(path, "".join(f"{line}\n" for line in kept))
        self._board = _board(path.with_suffix("")) if tensorboard else None
        # Unbuffered: a line is in the file at once, and closing has nothing left to write.
        self._file = path.open("ab", buffering=0)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Reports figures of one step.

        Raises:
            DmcpError: The disk is full.
        """
        if self._file is not None:
            rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
            try:
                self._file.write(f"{json.dumps({'step': step, **rounded})}\n".encode())
            except OSError as err:
                raise DmcpError(f"Cannot write {self._path}: {reason_of(err)}.") from err
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Returns the reports of a metrics file, in order."""
    return [json.loads(line) for line in _lines(path) if _step(line) >= 0]


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _step(line: str) -> int:
    """Returns the step of a report; -1 for a line that a killed process left half written."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as err:
        raise DmcpError(
            "--tensorboard needs TensorBoard: run pip install 'dmcp-deploy[tensorboard]'."
        ) from err
    return SummaryWriter(str(folder))
