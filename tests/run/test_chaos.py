"""Runs that are killed, torn and out of room end as the undisturbed one, or say what is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dmcp_deploy.artifact import read_artifact

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.slow(seconds=15)


def test_every_disturbed_run_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    # What SIGKILL leaves behind is in test_resume.py, and here as torn files.
    kinds = trials(tmp_path, "--kills", "0", "--steps", "16", "--no-mount")
    assert not any(kind.startswith("SIGKILL") for kind in kinds)
    for kind in ("SIGTERM", "newest checkpoint truncated", "files of limited size"):
        assert kind in kinds


@pytest.mark.nightly("two minutes: thirty kills, and disks that are full where this is root")
def test_every_killed_run_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    kinds = trials(tmp_path, "--kills", "30")
    assert sum(kind.startswith("SIGKILL") for kind in kinds) == 30


@pytest.mark.nightly("two minutes: ten times one of two processes is killed and both start again")
def test_a_run_of_two_processes_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    found = outcome("chaos_ranks", tmp_path)
    assert found["differs"] == []
    assert len(found["kills"]) == 10


def trials(folder: Path, *words: str) -> list[str]:
    """Returns what benchmarks/chaos.py did to runs, all of which must have ended well."""
    found: list[dict[str, Any]] = outcome("chaos", folder, *words)["trials"]
    assert [trial for trial in found if not trial["good"]] == []
    return [trial["kind"] for trial in found]


def outcome(name: str, folder: Path, *words: str) -> dict[str, Any]:
    """Runs one of the benchmarks and returns what it has written."""
    out = folder / f"{name}.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *words, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.exists(), done.stderr
    assert done.returncode == 0, done.stdout
    return read_artifact(out, name.replace("_", "-"))
