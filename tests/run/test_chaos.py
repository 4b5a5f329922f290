"""Runs that are killed, torn and out of room end as the undisturbed one, or say what is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dmcp_deploy.artifact import read_artifact

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


@pytest.mark.slow
def test_every_disturbed_run_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    out = tmp_path / "chaos.json"
    words = ["--kills", "6", "--steps", "16", "--no-mount", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False
    )
    assert out.exists(), done.stderr
    trials = read_artifact(out, "chaos")["trials"]
    assert [trial for trial in trials if not trial["good"]] == []
    assert done.returncode == 0
    kinds = [trial["kind"] for trial in trials]
    assert sum(kind.startswith("SIGKILL") for kind in kinds) == 6
    for kind in ("SIGTERM", "newest checkpoint truncated", "files of limited size"):
        assert kind in kinds
    assert done.stdout.count("\n") == 2 + len(set(kinds))
