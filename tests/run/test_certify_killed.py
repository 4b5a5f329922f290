"""A run with a budget in time that is killed, and started again, ends with the same plan."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import warm
from pipeline_table import measuring, pipeline_table
from tiny_runs import ENVIRONMENT, asked, command_line, library

import dmcp_deploy
from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.certificate import FILE, Certificate
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.run import certify

pytestmark = pytest.mark.slow

_PATIENCE_S = 240

#: A search whose second measurement never ends.
STUCK = """
import time
from pathlib import Path
import dmcp_deploy
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.run import certify
from pipeline_table import measuring

measure, calls = measuring(Path({folder!r}), LatencyTable.load(Path({table!r})), 1.2), []

def stuck(*args):
    calls.append(args)
    if len(calls) > 1:
        time.sleep(1000)
    return measure(*args)

certify.measure = stuck
dmcp_deploy.run.search(**{options!r}, compute=dmcp_deploy.Compute(rehearse=False))
"""


def test_killed_between_rounds_it_goes_on_from_what_was_measured(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    environment = {**ENVIRONMENT, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    table, out = tmp_path / "given.json", tmp_path / "run"
    pipeline_table().save(table)
    options = library(tiny_folder, out, flops=None, latency="60%", table=str(table), method="dmcp")
    named = {**options, "out": str(out)}
    del named["compute"]
    script = STUCK.format(folder=str(out), table=str(table), options=named)
    kill_once([sys.executable, "-c", script], (out / FILE).exists, environment)
    (first,) = Certificate.load(out / FILE).rounds
    assert json.loads((out / "run.json").read_text())["stages"].keys() == {"search"}

    monkeypatch.setattr(certify, "measure", measuring(out, LatencyTable.load(table), 1.2))
    run = dmcp_deploy.run.search(**options)
    rounds = Certificate.load(run.file(FILE)).rounds
    assert rounds[0] == first
    killed = out.rename(tmp_path / "killed")
    undisturbed = dmcp_deploy.run.search(**options)
    for name in ("plan.json", "supernet.safetensors", FILE):
        assert (killed / name).read_bytes() == undisturbed.file(name).read_bytes(), name


@pytest.mark.xdist_group("measures")
def test_killed_in_its_table_it_measures_the_rest(tiny_folder: Path, tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    tables = tmp_path / "cache" / "dmcp-deploy" / "tables"
    options = {"method": "uniform", "flops": None, "latency": "60%", "threads": 1}
    options["certify_seconds"] = 0.4
    words = asked("search", tiny_folder, tmp_path / "run", **options)

    def is_begun() -> bool:
        return any(steps(path) >= 3 for path in tables.glob("*.part.json"))

    kill_once(command_line(*words), is_begun, environment)
    (part,) = tables.glob("*.part.json")
    assert not (tmp_path / "run").exists()
    measured = steps(part)

    done = warm.run(command_line(*words), environment)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"latency table:.* {measured}/48", done.stderr), "went on"
    (kept,) = tables.glob("*.json")
    table = LatencyTable.load(kept)
    assert table.setting.threads == 1
    assert [path.name for path in tables.iterdir() if path.is_dir()] == ["used"]

    again = warm.run(
        command_line(*asked("search", tiny_folder, tmp_path / "again", **options)), environment
    )
    assert again.returncode == 0, again.stderr
    assert "latency table:" not in again.stderr
    first, second = (
        Certificate.load(tmp_path / name / FILE).rounds[0].plan for name in ("run", "again")
    )
    assert first == second
    copies = [tmp_path / name / "table.json" for name in ("run", "again")]
    assert {digest_file(path) for path in copies} == {digest_file(kept)}


def steps(part: Path) -> int:
    return len(json.loads(part.read_text())["steps"])


def kill_once(words: list[str], is_there: Callable[[], bool], environment: dict[str, str]) -> None:
    """Runs a command until something is there, then kills it."""
    with warm.Process(words, environment) as process:
        give_up = time.monotonic() + _PATIENCE_S
        while not is_there() and time.monotonic() < give_up and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == -signal.SIGKILL, errors
