"""What lies in a run directory, and in which state; torch-free."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcp_deploy import __version__
from dmcp_deploy.artifact import (
    decode,
    digest_file,
    encode,
    read_artifact,
    well_formed,
    write_artifact,
)
from dmcp_deploy.data.input_record import InputRecord
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.registry import near_matches
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.rundir.stages import Stage

KIND = "run"

#: What run.json holds beside the request and the stages.
_NOTES = _DATA_PLACE, _INPUT = "data_place", "input"

#: Metrics of this name and a group's: the share of its channels that a search expects to keep.
KEPT = "kept/"

#: The state of a search behind the steps that do not depend on the budget.
SHARED = "checkpoints/search-shared.safetensors"


@dataclass(frozen=True)
class StageRecord:
    """What is known of a stage that is done.

    Attributes:
        seconds: How long it took, since it was last continued.
        inputs: File that it read -> digest.
        outputs: File that it wrote -> digest.
        figures: What it found.
    """

    seconds: float
    inputs: Mapping[str, str | None]
    outputs: Mapping[str, str | None]
    figures: Mapping[str, Any]


class RunDir:
    """A run directory: its files, its request, and which stages are done."""

    def __init__(self, path: Path) -> None:
        """Opens the directory; nothing is read or made yet."""
        self.path = Path(path)

    def file(self, name: str) -> Path:
        """Returns the path of one of the run's files."""
        return self.path / name

    def holds(self, request: RunRequest) -> bool:
        """Returns whether the run of a request was begun here; False if nothing lies here.

        Raises:
            DmcpError: Another run lies here, or files that are no run.
        """
        try:
            begun = self.is_begun()
            foreign = not begun and self.path.is_dir() and any(map(_is_whole, self.path.iterdir()))
        except OSError as err:
            raise DmcpError(f"Cannot read {self.path}: {reason_of(err)}.") from err
        place = next((p for p in (self.path, *self.path.parents) if p.exists()), Path())
        if not place.is_dir():
            raise DmcpError(f"Cannot write {self.path}: {place} is not a folder.")
        if foreign:
            raise DmcpError(f"{self.path} holds files, and no run: choose another --out.")
        found = self.request().difference(request) if begun else None
        if found is not None:
            raise DmcpError(
                f"{self.path} holds a run with other settings ({found}): choose another --out, or"
                " delete that directory."
            )
        return begun

    def is_begun(self) -> bool:
        """Returns whether a run lies here."""
        return self.file("run.json").exists()

    def check_lends(self, request: RunRequest) -> None:
        """Checks that the search of another request can take over the first stage of this run's.

        Raises:
            DmcpError: There is no run here, it has none to take over, or it differs in more than
                the budget.
        """
        found = self.request().shared().difference(request.shared())
        if found is not None:
            raise DmcpError(
                f"The first stage of {self.path} cannot be taken over, its run has other settings"
                f" ({found}): leave out --supernet, or ask for the same."
            )
        if not self.file(SHARED).exists():
            raise DmcpError(
                f"{self.path} has no {SHARED} to take over: its search has not come so far, or all"
                f" of it depends on the budget ({request.method})."
            )

    def begin(self, request: RunRequest) -> None:
        """Records the request, or checks that the run that lies here is the same.

        Where the data lies is not compared, see `data_place`.

        Raises:
            DmcpError: Another run lies here, or the directory cannot be made.
        """
        if not self.holds(request):
            self._write(request, {})

    def request(self) -> RunRequest:
        """Returns what was asked of the run.

        Raises:
            DmcpError: There is no run here, or its run.json is damaged.
        """
        content = self._read()
        with well_formed(str(self.file("run.json"))):
            return RunRequest.from_json(content["request"])

    def data_place(self) -> str | None:
        """Returns where the data was found last, if that is not where the run was begun on it."""
        place = self._read().get(_DATA_PLACE)
        return None if place is None else str(place)

    def input(self) -> InputRecord | None:
        """Returns what the run's networks are fed with; None in a run of an older release.

        Raises:
            DmcpError: There is no run here, or its run.json is damaged.
        """
        content = self._read().get(_INPUT)
        with well_formed(str(self.file("run.json"))):
            return None if content is None else decode(InputRecord, content, _INPUT)

    def note(self, data_place: str, fed: InputRecord) -> None:
        """Records where the data lies now, and what is made of it."""
        request = self.request()
        notes = {_INPUT: encode(fed)}
        if data_place != request.data:
            notes[_DATA_PLACE] = data_place
        known = {name: value for name, value in self._read().items() if name in _NOTES}
        if known != notes:
            self._write(request, self.stages(), notes)

    def stages(self) -> dict[Stage, StageRecord]:
        """Returns stage -> its record, for the stages done.

        Raises:
            DmcpError: There is no run here, or its run.json is damaged.
        """
        stages = self._read().get("stages")
        with well_formed(str(self.file("run.json"))):
            return decode(dict[Stage, StageRecord], stages, "stages")

    def is_current(self, stage: Stage, asked: Mapping[str, Any] | None = None) -> bool:
        """Returns whether a stage is done, on the inputs that lie here now, its outputs whole.

        Args:
            stage: The stage.
            asked: What its figures must say that it was asked for; None for anything.
        """
        record = self.stages().get(stage)
        if record is None or (asked is not None and record.figures.get("asked") != asked):
            return False
        named = {**record.inputs, **record.outputs}
        return all(self._digest(name) == digest for name, digest in named.items())

    @contextmanager
    def stage(
        self, name: Stage, inputs: Sequence[str], outputs: Sequence[str], spent_s: float = 0.0
    ) -> Iterator[dict[str, Any]]:
        """Yields a place for a stage's figures and records the stage once the block succeeds.

        Args:
            name: The stage.
            inputs: Files that it reads, where they are there.
            outputs: Files that it writes, where they are there.
            spent_s: Seconds that it took before the block.
        """
        before = {file: self._digest(file) for file in inputs if self.file(file).exists()}
        figures: dict[str, Any] = {}
        started = time.monotonic()
        yield figures
        after = {file: self._digest(file) for file in outputs if self.file(file).exists()}
        seconds = round(spent_s + time.monotonic() - started, 2)
        record = StageRecord(seconds, before, after, figures)
        self._write(self.request(), {**self.stages(), name: record})

    def figures(self, stage: Stage) -> dict[str, Any]:
        """Returns the figures of a stage that is done, else an empty dictionary."""
        record = self.stages().get(stage)
        return dict(record.figures) if record is not None else {}

    def _digest(self, name: str) -> str | None:
        path = self.file(name)
        return digest_file(path) if path.is_file() else None

    def _read(self) -> dict[str, Any]:
        if not self.is_begun():
            raise DmcpError(self._absence())
        return read_artifact(self.file("run.json"), KIND)

    def _absence(self) -> str:
        """Returns the sentence about a path that is no run directory."""
        if self.path.is_dir():
            what = f"{self.path} holds no run (no run.json)"
        elif self.path.exists():
            what = f"{self.path} is a file, and a run directory is needed"
        else:
            what = f"There is no run directory {self.path}"
        if (self.path.parent / "run.json").exists():
            return f"{what}; did you mean {self.path.parent}?"
        folders = (path.parent for path in self.path.parent.glob("*/run.json"))
        near = near_matches(self.path.name, (path.name for path in folders))
        return f"{what}: start one with search{near}"

    def _write(
        self,
        request: RunRequest,
        stages: Mapping[Stage, StageRecord],
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        if notes is None:
            before = self._read() if self.is_begun() else {}
            notes = {name: value for name, value in before.items() if name in _NOTES}
        content = {
            "request": request.to_json(),
            **notes,
            "versions": _versions(),
            "stages": encode(stages),
        }
        write_artifact(self.file("run.json"), KIND, content)


def folder_name(text: str) -> str:
    """Returns a text as the name of a folder."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)


def _is_whole(path: Path) -> bool:
    """Returns whether a file is more than what a killed process left half written."""
    return path.suffix != ".part"


def _versions() -> dict[str, str]:
    from importlib import metadata

    names = ("torch", "torchvision", "onnx", "onnxruntime")
    found = {"dmcp-deploy": __version__, "python": sys.version.split()[0]}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
