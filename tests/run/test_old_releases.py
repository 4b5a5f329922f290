"""What an earlier release has written is still read: run directories, plans, records, tables.

`tests/artifacts/release_0_1_0` was written by that release's command line; `expected.json` holds
what it said of the run.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import changed, snapshot, succeed

import dmcp_deploy
from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.layers.record import LayersRecord
from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.runtimes.engine_record import EngineRecord

OLD = Path(__file__).parents[1] / "artifacts" / "release_0_1_0"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the old run directory."""
    return Path(shutil.copytree(OLD / "run", tmp_path / "run"))


@pytest.fixture
def expected() -> dict[str, Any]:
    return json.loads((OLD / "expected.json").read_text(encoding="utf-8"))


def test_the_request_is_the_same_for_its_checkpoints(run: Path, expected: dict[str, Any]) -> None:
    request = RunDir(run).request()
    assert request.token() == expected["token"]
    assert request.shared().token() == expected["shared_token"]


def test_every_stage_is_seen_as_done(run: Path) -> None:
    before = snapshot(run)
    for command in ("slice", "train", "export"):
        succeed(command, run)
    succeed("export", run, "--precision", "fp32,fp16", "--calibration", "32")
    assert not changed(before, snapshot(run))


def test_the_network_and_its_plan_are_loaded(run: Path) -> None:
    network = dmcp_deploy.load(run)
    plan = ChannelPlan.load(run / "plan.json")
    assert sum(p.numel() for p in network.parameters()) == plan.params
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def test_the_report_says_what_it_said(run: Path, expected: dict[str, Any]) -> None:
    told = json.loads(succeed("report", run, "--format", "json"))
    assert told["pareto"] == expected["report"]["pareto"]
    (now,), (then,) = told["runs"], expected["report"]["runs"]
    differing = {key for key in {**now, **then} if now.get(key) != then.get(key)}
    # The copy lies elsewhere and has no engine file, which the sidecar alone stands for.
    assert differing <= {"path", "commands", "missing"}


def test_records_and_tables_are_read(run: Path) -> None:
    assert [one.name for one in BenchRecord.load(run / "bench.json").measured] == [
        "original",
        "pruned",
    ]
    assert LayersRecord.load(run / "layers.json")
    assert BenchRecord.load(OLD / "baseline.json")
    table = LatencyTable.load(OLD / "table.json")
    (prediction,) = dmcp_deploy.table_predict(table, run)
    assert prediction.latency_ms > 0


def test_the_sidecar_of_an_engine_is_read(run: Path) -> None:
    (sidecar,) = (run / "engines").iterdir()
    engine = sidecar.with_suffix("")
    engine.write_bytes(b"an engine")
    content = json.loads(sidecar.read_text(encoding="utf-8"))
    content["engine_digest"] = digest_file(engine)
    sidecar.write_text(json.dumps(content), encoding="utf-8")
    assert EngineRecord.load(engine).runtime == "tensorrt-rtx"
