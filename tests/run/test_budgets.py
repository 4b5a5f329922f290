"""Several budgets from one supernet: the same plans as from runs of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_pipeline_net import tiny_pipeline_net
from tiny_runs import asked, library, refused, snapshot, succeed

import dmcp_deploy
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.run import Budgets
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.report.gather import gather
from dmcp_deploy.run.budgets import for_each_budget, parse_budgets, split_budgets
from dmcp_deploy.rundir.directory import SHARED


def test_budgets_are_checked_one_by_one() -> None:
    assert parse_budgets("25%, 211M,25%") == ["25%", "211M"]
    with pytest.raises(DmcpError, match="'25 percent' is not understood"):
        parse_budgets("10%,25 percent")


def test_a_budget_that_is_named_twice_is_one() -> None:
    assert split_budgets(Budgets("50%, 50%", params="2M")) == [Budgets("50%", params="2M")]


def test_bytes_of_weights_are_a_budget_too() -> None:
    assert parse_budgets("8MB,50%", "weight_bytes") == ["8MB", "50%"]
    assert str(Budgets("50%", params="2M", weight_bytes="8MB")) == "50%-params-2M-8MB"
    assert str(Budgets(weight_bytes="50%")) == "weight-bytes-50%"
    for text, told in {
        "0MB": "must be above zero",
        "5": "The weight budget '5' has no unit: .*; did you mean 5% or 5MB?",
        "1,5MB": r"The comma in --weight-bytes '1,5MB' separates two budgets: write one as 1\.5MB",
        "5 pounds": "The weight budget .* is not understood",
    }.items():
        with pytest.raises(DmcpError, match=told):
            parse_budgets(text, "weight_bytes")
    with pytest.raises(DmcpError, match="Both --params and --weight-bytes name several"):
        split_budgets(Budgets(params="2M,1M", weight_bytes="8MB,5MB"))


def test_a_run_keeps_its_budget_in_bytes_of_a_precision(tiny_folder, tmp_path) -> None:
    options = {"method": "uniform", "flops": None, "weight_bytes": "50%"}
    words = asked("search", tiny_folder, tmp_path, latency_precision="int8", **options)
    text = succeed(*words)
    plan = ChannelPlan.load(tmp_path / "plan.json")
    (limit,) = plan.limits
    full = sum(p.numel() for p in tiny_pipeline_net(3).parameters())
    assert (limit.quantity, limit.most) == ("weight bytes in int8", full // 2)
    assert 0.98 * limit.most <= limit.value == plan.params <= limit.most
    assert limit.text.endswith(" kB of weights in int8")
    assert f"{limit.share:.2%} of the budget of {limit.text}" in text
    command = gather(tmp_path, "run").commands[0]
    assert "--weight-bytes 50% --latency-precision int8" in command
    assert succeed(*words) == text
    unlike = asked("search", tiny_folder, tmp_path, **options)
    assert "weight_precision: int8 there, None asked for" in refused(*unlike)


def test_bytes_count_in_fp32_unless_told(tiny_folder, tmp_path) -> None:
    options = {"method": "uniform", "flops": "90%", "weight_bytes": "50%"}
    run = dmcp_deploy.run.search(**library(tiny_folder, tmp_path / "run", **options))
    plan = ChannelPlan.load(run.file("plan.json"))
    assert plan.limits[0].value == 4 * plan.params <= plan.limits[0].most
    strange = library(tiny_folder, tmp_path / "other", target={"precision": "int3"}, **options)
    with pytest.raises(DmcpError, match="--latency-precision 'int3' is unknown"):
        dmcp_deploy.run.search(**strange)


def first_steps(run: Path) -> int:
    lines = (run / "metrics" / "search.jsonl").read_text().splitlines()
    return int(json.loads(lines[0])["step"])


@pytest.mark.parametrize("method", ["dmcp", "autoslim", "metapruning", "l1"])
def test_each_budget_ends_where_a_run_of_its_own_does(method, tiny_folder, tmp_path) -> None:
    options = {"method": method, "max_steps": 6}
    whole = library(tiny_folder, tmp_path / "all", flops="50%,25%", **options)
    runs = for_each_budget(dmcp_deploy.run.search, **whole)
    alone = dmcp_deploy.run.search(
        **library(tiny_folder, tmp_path / "alone", flops="25%", **options)
    )
    assert [run.path.name for run in runs] == ["50%", "25%"]
    theirs, ours = (ChannelPlan.load(run.file("plan.json")) for run in (runs[1], alone))
    assert theirs == ours
    name = "supernet.safetensors"
    assert runs[1].file(name).read_bytes() == alone.file(name).read_bytes()


def test_the_shared_steps_are_done_once(tiny_folder, tmp_path) -> None:
    runs = for_each_budget(
        dmcp_deploy.run.search, **library(tiny_folder, tmp_path / "all", flops="50%,25%,20%")
    )
    assert [first_steps(run.path) for run in runs] == [0, 2, 2]


def test_a_method_that_shares_nothing_runs_once_for_each(tiny_folder, tmp_path) -> None:
    text = succeed(*asked("search", tiny_folder, tmp_path, flops="50%,25%", method="fpgm"))
    assert text.count("plan.json") == 2
    assert [first_steps(tmp_path / name) for name in ("50%", "25%")] == [0, 0]


def test_every_budget_is_checked_before_any_training(tiny_folder, tmp_path) -> None:
    out = tmp_path / "out"
    sentence = refused(*asked("search", tiny_folder, out, flops="50%,0.1%"))
    assert "is below the narrowest network" in sentence
    assert not out.exists()


class TestSupernet:
    @pytest.fixture
    def lender(self, tiny_folder, tmp_path) -> Path:
        succeed(*asked("search", tiny_folder, tmp_path / "lender", flops="50%"))
        return tmp_path / "lender"

    def test_a_run_takes_over_the_first_stage(self, lender, tiny_folder, tmp_path) -> None:
        before = snapshot(lender)
        succeed(*asked("search", tiny_folder, tmp_path / "run", supernet=lender))
        succeed(*asked("search", tiny_folder, tmp_path / "alone"))
        assert first_steps(tmp_path / "run") == 2
        plans = [ChannelPlan.load(tmp_path / name / "plan.json") for name in ("run", "alone")]
        assert plans[0] == plans[1]
        assert snapshot(lender) == before

    @pytest.mark.parametrize(
        ("changes", "told"),
        [({"seed": 1}, "seed: 0 there, 1 asked for"), ({"method": "autoslim"}, "method: dmcp")],
    )
    def test_other_settings_are_refused(self, changes, told, lender, tiny_folder, tmp_path) -> None:
        out = tmp_path / "run"
        sentence = refused(*asked("search", tiny_folder, out, supernet=lender, **changes))
        assert told in sentence
        assert not out.exists()

    def test_a_run_without_a_first_stage_is_refused(self, lender, tiny_folder, tmp_path) -> None:
        (lender / SHARED).unlink()
        out = tmp_path / "run"
        assert "to take over" in refused(*asked("search", tiny_folder, out, supernet=lender))
        assert "no run directory" in refused(
            *asked("search", tiny_folder, out, supernet=tmp_path / "nowhere")
        )
        assert not out.exists()

    def test_a_damaged_first_stage_is_refused(self, lender, tiny_folder, tmp_path) -> None:
        (lender / SHARED).write_bytes(b"torn")
        out = tmp_path / "run"
        assert "is damaged" in refused(*asked("search", tiny_folder, out, supernet=lender))
