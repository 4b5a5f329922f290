"""What is measured so far of a latency table, in memory and in a file; a killed one goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from dmcp_deploy.artifact import decode, encode, read_artifact, well_formed, write_artifact
from dmcp_deploy.bench.tables.table import DEVICE
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.options.measure import Setting

PART_KIND = "latency-table-part"

_Turn = TypeVar("_Turn")
_Step = TypeVar("_Step")


@dataclass(frozen=True)
class Part(Generic[_Turn, _Step]):
    """Steps of a measurement, and the file that keeps them.

    Attributes:
        path: The file.
        head: What tells this measurement from others.
        environment: The machine at the start.
        steps: Turn -> what was measured.
    """

    path: Path
    head: Mapping[str, Any]
    environment: Mapping[str, Any]
    steps: dict[_Turn, _Step]

    def add(self, turn: _Turn, step: _Step) -> None:
        """Keeps what was measured in a turn."""
        self.steps[turn] = step
        listed = [{**encode(turn), **encode(step)} for turn, step in self.steps.items()]
        content = {**self.head, "environment": self.environment, "steps": listed}
        write_artifact(self.path, PART_KIND, content)


def open_part(
    path: Path,
    setting: Setting,
    subject: Mapping[str, Any],
    turn: type[_Turn],
    step: type[_Step],
) -> Part[_Turn, _Step]:
    """Returns what is measured so far.

    Args:
        path: The file that keeps it, there or not.
        setting: How it is measured.
        subject: What is, as JSON values.
        turn: The dataclass of a turn.
        step: The dataclass of what is measured in one.

    Raises:
        DmcpError: The file is damaged or of another measurement.
    """
    environment = read_environment(devices=True)
    head = {
        "setting": asdict(setting),
        **subject,
        "device": {name: environment.get(name) for name in DEVICE},
        "libraries": environment["libraries"],
    }
    if not path.exists():
        return Part(path, head, environment, {})
    content = read_artifact(path, PART_KIND)
    _check_same(path, head, content)
    with well_formed(str(path), ": delete it"):
        rows: Sequence[Any] = content["steps"]
        turns = [decode(turn, row, "steps") for row in rows]
        steps = [decode(step, row, "steps") for row in rows]
        kept = dict(zip(turns, steps, strict=True))
        return Part(path, head, dict(content["environment"]), kept)


def _check_same(path: Path, head: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    differing = [name for name, value in head.items() if content.get(name) != value]
    if differing:
        raise DmcpError(
            f"{path} holds a measurement that was stopped, with another {differing[0]}: delete it,"
            " or ask for another --out."
        )
