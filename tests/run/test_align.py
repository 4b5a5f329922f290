"""A plan that is brought to aligned widths keeps every budget that it records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pipeline_table import FULL_MS, SPEC, of_a_board, pipeline_table
from search_problems import asked_of
from tiny_runs import refused, succeed

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.certificate import FILE, Certificate, Round
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.models import build_network
from dmcp_deploy.plan import ChannelPlan, Keep, PlanLimit
from dmcp_deploy.run.certificates import table_ms
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.files import TABLE
from dmcp_deploy.search.align import align_plan

TIME = PlanLimit("milliseconds", "40%", 0.4 * FULL_MS, 1.0)
LIKE_TIME = PlanLimit("milliseconds", "1.6ms", 1.6, 1.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def wide_plan(*limits: PlanLimit) -> ChannelPlan:
    """Returns a plan of most channels that records budgets; it need not meet them."""
    network = build_network(SPEC)
    cost = NetworkCost(network)
    kept = {g.name: g.size - (g.size // 10 if g.prunable else 0) for g in network.groups}
    groups = {group.name: Keep(group.size, kept[group.name]) for group in network.groups}
    totals = (cost.macs_at(kept), cost.full_macs, cost.params(kept))
    return ChannelPlan(SPEC, groups, *totals, None, "by hand", 1, 0, limits)


def run_of(folder: Path, plan: ChannelPlan) -> RunDir:
    """Returns a run directory that holds a plan and the latency table that it was decoded by."""
    table = folder.with_name("built.json")
    pipeline_table().save(table)
    run, asked = RunDir(folder), {"budget": None, "latency": "40%"}
    run.begin(replace(asked_of(SPEC), **asked, table_digest=digest_file(table)))
    table.rename(folder / TABLE)
    plan.save(folder / "plan.json")
    return run


@pytest.mark.parametrize(
    ("limit", "full"),
    [
        (PlanLimit("parameters", "50%", 1.0, 1.0), 1),
        (PlanLimit("weight bytes", "50%", 1.0, 1.0), 4),
        (PlanLimit("weight bytes in int8", "50%", 1.0, 1.0), 1),
    ],
)
def test_what_is_counted_stays_within_its_budget(limit, full):
    aligned = align_plan(wide_plan(limit), 4)
    (after,) = aligned.limits
    params = sum(p.numel() for p in build_network(SPEC).model.parameters())
    assert (after.quantity, after.asked, after.most) == (limit.quantity, "50%", full * params // 2)
    assert after.value == full * aligned.params <= after.most
    assert after.share >= 0.98


def test_time_stays_within_the_budget_by_the_runs_table(tmp_path):
    run, out = run_of(tmp_path / "run", wide_plan(TIME)), tmp_path / "aligned.json"
    text = succeed("plan", "align", run.path, "--align", 16, "--out", out)
    aligned = ChannelPlan.load(out)
    (after,) = aligned.limits
    assert f"{after.share:.2%} of the budget of 1.60 ms, multiples of 16 in groups" in text
    assert (after.asked, after.most) == ("40%", TIME.most)
    assert after.value == pytest.approx(table_ms(pipeline_table(), aligned))
    assert 0.9 <= after.share <= 1.0
    for keep in aligned.groups.values():
        assert keep.width % 16 == 0 or keep.width == keep.size or keep.size <= 16


def test_the_table_is_read_as_the_certificate_has_corrected_it(tmp_path):
    plan = wide_plan(TIME)
    run, table = run_of(tmp_path / "run", plan), pipeline_table()
    tried = Round(plan, table_ms(table, plan), factor=1.25)
    known = (table.setting, table.device, table.ran_by, digest_file(run.file(TABLE)), (tried,))
    Certificate("40%", TIME.most, FULL_MS, *known).save(run.file(FILE))
    succeed("plan", "align", run.path, "--out", tmp_path / "aligned.json")
    aligned = ChannelPlan.load(tmp_path / "aligned.json")
    assert aligned.limits[0].value == pytest.approx(1.25 * table_ms(table, aligned))
    assert 0.9 <= aligned.limits[0].share <= 1.0


def test_a_plan_by_itself_needs_the_table_that_its_time_is_read_from(tmp_path):
    plan, out = tmp_path / "plan.json", tmp_path / "aligned.json"
    wide_plan(LIKE_TIME).save(plan)
    words = ("plan", "align", plan, "--out", out)
    told = refused(*words)
    assert "has a budget of 1.60 ms, and nothing tells the time of others: give its latency" in told
    assert not out.exists()
    of_a_board().save(tmp_path / "table.json")
    succeed(*words, "--table", tmp_path / "table.json")
    aligned = ChannelPlan.load(out)
    assert 0.9 * 1.6 <= table_ms(pipeline_table(), aligned) <= 1.6
    other = replace(pipeline_table(), network=replace(SPEC, num_classes=9))
    other.save(tmp_path / "other.json")
    assert "is of" in refused(*words, "--table", tmp_path / "other.json")


def test_a_table_without_a_budget_in_time_is_refused(tmp_path):
    wide_plan().save(tmp_path / "plan.json")
    words = ("plan", "align", tmp_path / "plan.json", "--out", tmp_path / "aligned.json")
    assert "is for a budget in time" in refused(*words, "--table", tmp_path / "table.json")


def test_a_quantity_of_a_later_release_is_refused():
    with pytest.raises(DmcpError, match="a budget in joules, which this release does not know"):
        align_plan(wide_plan(PlanLimit("joules", "5J", 5.0, 4.0)), 8)
