"""What D4's processes share: raw records, one a line, and who does what."""

from __future__ import annotations

import fcntl
import json
import os
import re
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Files:
    """A folder that several processes write to at once; a killed run goes on from it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._lines = folder, folder / "records.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, record: Record) -> None:
        """Adds a record, whole or not at all."""
        with self._lines.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps(record) + "\n")

    def records(self) -> list[Record]:
        """Returns all records so far."""
        if not self._lines.exists():
            return []
        return [json.loads(line) for line in self._lines.read_text().splitlines()]

    def searched(self, budget: float, transition: str, seed: int) -> Record | None:
        """Returns the record of a search that is done."""
        wanted = {"kind": "search", "budget": budget, "transition": transition, "seed": seed}
        return next((r for r in self.records() if wanted.items() <= r.items()), None)

    def trained(self, arm: str, budget: float, seed: int) -> bool:
        """Returns whether a dense network is done."""
        wanted = {"kind": "dense", "arm": arm, "budget": budget, "seed": seed}
        return any(wanted.items() <= r.items() for r in self.records())

    def plans(self, arm: str, budget: float) -> dict[int, dict[str, int]]:
        """Returns the plans of an arm's searches by their seeds."""
        transition = "sigmoid" if "sigmoid" in arm else "exp"
        wanted = {"kind": "search", "budget": budget, "transition": transition}
        return {r["seed"]: r["widths"] for r in self.records() if wanted.items() <= r.items()}

    def claim(self, name: str) -> bool:
        """Returns whether this process is the first of the run to take a piece of work."""
        try:
            os.close(os.open(self._mark(name), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def is_claimed(self, name: str) -> bool:
        """Returns whether some process has taken a piece of work."""
        return self._mark(name).exists()

    def plan(self, **decided: Any) -> None:
        """Adds to what is decided for all processes; only the parent does."""
        path = self.folder / "plan.part"
        path.write_text(json.dumps({**self.planned(), **decided}))
        path.replace(self.folder / "plan.json")

    def planned(self) -> dict[str, Any]:
        """Returns what is decided so far."""
        path = self.folder / "plan.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def start(self) -> None:
        """Forgets who took what, and what was left out, for a new run."""
        for mark in self.folder.glob("*.taken"):
            mark.unlink()
        kept = [json.dumps(r) for r in self.records() if "why" not in r]
        self._lines.write_text("".join(line + "\n" for line in kept))

    def _mark(self, name: str) -> Path:
        return self.folder / f"{re.sub('[^A-Za-z0-9]+', '-', name)}.taken"
