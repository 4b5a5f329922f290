"""What a run tells of a plan that was decoded exactly, or not quite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pipeline_table import of_a_board
from tiny_runs import library, succeed

import dmcp_deploy
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.report.write import report_text
from dmcp_deploy.run import api
from dmcp_deploy.run.summary import summarize
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.stages import SEARCH
from dmcp_deploy.search import dmcp
from dmcp_deploy.search.decode import decode

DOUBT = "It is not proven that no plan within the budgets is nearer to what the search wanted."


@pytest.fixture
def search(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    of_a_board().save(tmp_path / "board.json")
    timed = {"flops": None, "latency": "60%", "table": tmp_path / "board.json"}

    def searched(**changes: Any) -> RunDir:
        options = library(tiny_folder, tmp_path / "run", **{**timed, **changes})
        return dmcp_deploy.run.search(**options)

    return searched


def test_a_proven_plan_is_recorded_with_the_steps_that_it_ends(search):
    run = search(method="dmcp")
    plan = ChannelPlan.load(run.file("plan.json"))
    assert run.figures(SEARCH)["is_proven"] is plan.is_proven is True
    assert DOUBT not in summarize(run)
    assert plan.steps == dict.fromkeys(plan.groups, 8)
    shown = succeed("plan", "show", run.path)
    assert "step of time" in shown
    for name, keep in plan.groups.items():
        (line,) = (line for line in shown.splitlines() if line.split()[0] == name)
        assert line.endswith(f" {-(-keep.width // 8)} of {keep.size // 8} by 8")


def test_a_plan_that_was_not_proven_is_told_in_record_summary_and_report(search, monkeypatch):
    def hasty(*problem: Any, **how: Any):
        return replace(decode(*problem, **how), is_proven=False)

    monkeypatch.setattr(dmcp, "decode", hasty)
    run = search(method="dmcp")
    assert run.figures(SEARCH)["is_proven"] is False
    assert DOUBT in summarize(run)
    assert DOUBT in succeed("plan", "show", run.path)
    for form in ("html", "md", "json"):
        assert DOUBT in report_text([run.path], form)


@pytest.mark.parametrize("options", [{"flops": "50%", "latency": None, "table": None}, {}])
def test_a_plan_that_no_decoder_has_made_is_neither(options, search):
    run = search(method="uniform", **options)
    plan = ChannelPlan.load(run.file("plan.json"))
    assert plan.is_proven is None
    assert "is_proven" not in run.figures(SEARCH)
    assert (plan.steps is None) == ("flops" in options)
    assert DOUBT not in summarize(run)


@pytest.mark.parametrize(("latency", "alone"), [("60%", True), (None, False)])
def test_bench_measures_a_run_as_its_certificate_does(latency, alone, search, monkeypatch):
    options = {} if latency else {"flops": "50%", "latency": None, "table": None}
    run = search(method="uniform", **options)
    for name in ("model.onnx", "original.onnx"):
        run.file(name).write_bytes(b"")
    asked = []

    def stop(files: Any, how: Any, compute: Any):
        asked.append(how.alone)
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "_measure", stop)
    for told in (None, True, False):
        with pytest.raises(KeyboardInterrupt):
            api.bench(run.path, alone=told)
    assert asked == [alone, True, False]
