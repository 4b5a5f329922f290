"""Several budgets from one supernet: the same plans as from runs of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_runs import asked, library, refused, snapshot, succeed

import dmcp_deploy
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.run import Budgets
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.run.budgets import for_each_budget, parse_budgets, split_budgets
from dmcp_deploy.rundir.directory import SHARED


def test_budgets_are_checked_one_by_one() -> None:
    assert parse_budgets("25%, 211M,25%") == ["25%", "211M"]
    with pytest.raises(DmcpError, match="'25 percent' is not understood"):
        parse_budgets("10%,25 percent")


def test_a_budget_that_is_named_twice_is_one() -> None:
    assert split_budgets(Budgets("50%, 50%", params="2M")) == [Budgets("50%", params="2M")]


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
