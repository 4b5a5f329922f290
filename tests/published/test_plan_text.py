"""`plan show` and `plan diff`: what each group keeps, the totals, and where two plans differ."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import ENVIRONMENT, refused, succeed

from dmcp_deploy.artifact import encode
from dmcp_deploy.plan import ChannelPlan, Keep, NetworkSpec

PLAN = ChannelPlan(
    network=NetworkSpec("small_net", 1.0, 10, (3, 32, 32)),
    groups={"stem": Keep(32, 8), "body.0": Keep(64, (0, 3, 60)), "last": Keep(128, 128)},
    macs=1_250_000,
    full_macs=5_000_000,
    params=4321,
    budget_macs=1_300_000,
    method="dmcp",
    align=8,
    seed=3,
)
OTHER = replace(
    PLAN,
    groups={**PLAN.groups, "stem": Keep(32, 16), "body.0": Keep(64, (0, 3, 61))},
    macs=1_500_000,
    params=5000,
    method="uniform",
)


def saved(folder: Path, plan: ChannelPlan, name: str = "plan.json") -> Path:
    plan.save(folder / name)
    return folder / name


def test_a_plan_is_shown_group_by_group_with_its_totals(tmp_path: Path) -> None:
    lines = succeed("plan", "show", saved(tmp_path, PLAN)).splitlines()
    assert lines == [
        "group   kept  size   share  channels",
        "stem       8    32   25.0%  the first",
        "body.0     3    64    4.7%  by index",
        "last     128   128  100.0%  the first",
        "model small_net x1, 10 classes, input 3x32x32",
        "multiply-adds 5.0M -> 1.2M (1,250,000, 25.0%), parameters 4,321",
        "method dmcp, seed 3, widths multiples of 8",
        "budget 1.3M multiply-adds, 96.15% of it used",
    ]


def test_a_plan_within_a_budget_in_time_tells_which_step_each_width_ends(tmp_path: Path) -> None:
    timed = replace(PLAN, steps={"stem": 8, "last": 16}, is_proven=False)
    lines = succeed("plan", "show", saved(tmp_path, timed)).splitlines()
    assert lines[:4] == [
        "group   kept  size   share  channels   step of time",
        "stem       8    32   25.0%  the first  1 of 4 by 8",
        "body.0     3    64    4.7%  by index",
        "last     128   128  100.0%  the first  8 of 8 by 16",
    ]
    assert lines[6] == "method dmcp, seed 3, widths multiples of 8 or 16"
    assert lines[-1].startswith("It is not proven that no plan within the budgets is nearer")


def test_a_plan_is_shown_as_json(tmp_path: Path) -> None:
    shown = json.loads(succeed("plan", "show", saved(tmp_path, PLAN), "--json"))
    assert shown == {
        **PLAN.to_json(),
        "groups": {
            "stem": {"size": 32, "keep": 8, "kept": 8, "share": 0.25},
            "body.0": {"size": 64, "keep": [0, 3, 60], "kept": 3, "share": 3 / 64},
            "last": {"size": 128, "keep": 128, "kept": 128, "share": 1.0},
        },
    }


def test_a_run_stands_for_its_plan_and_a_plan_may_have_no_budget(tmp_path: Path) -> None:
    saved(tmp_path, replace(PLAN, budget_macs=None))
    text = succeed("plan", "show", tmp_path)
    assert text == succeed("plan", "show", tmp_path / "plan.json")
    assert text.endswith("\nbudget none\n")


def test_two_plans_are_compared_where_they_differ(tmp_path: Path) -> None:
    first, second = saved(tmp_path, PLAN, "a"), saved(tmp_path, OTHER, "b")
    head, *lines = succeed("plan", "diff", first, second).splitlines()
    assert head.split() == [str(first), str(second), "size", "change", "in", "both"]
    assert [line.split() for line in lines] == [
        ["stem", "8", "16", "32", "+8", "8"],
        ["body.0", "3", "3", "64", "+0", "2"],
        ["macs", "1,250,000", "1,500,000", "+250,000", "(+20.0%)"],
        ["params", "4,321", "5,000", "+679", "(+15.7%)"],
        ["2", "of", "3", "groups", "differ"],
    ]
    assert json.loads(succeed("plan", "diff", first, second, "--json")) == {
        "model": encode(PLAN.network),
        "groups": {
            "stem": {"size": 32, "kept": [8, 16], "same_channels": 8},
            "body.0": {"size": 64, "kept": [3, 3], "same_channels": 2},
        },
        "group_count": 3,
        "method": ["dmcp", "uniform"],
        "macs": [1_250_000, 1_500_000],
        "params": [4321, 5000],
    }


def test_a_plan_does_not_differ_from_itself(tmp_path: Path) -> None:
    path = saved(tmp_path, PLAN)
    # Leading channels are the same whether they are counted or listed.
    listed = replace(PLAN, groups={**PLAN.groups, "stem": Keep(32, tuple(range(8)))})
    for other in (path, saved(tmp_path, listed, "listed")):
        text = succeed("plan", "diff", path, other)
        assert text.endswith("0 of 3 groups differ\n")
        assert "+0 (+0.0%)" in text


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAN, network=NetworkSpec("large_net", 1.0, 10, (3, 32, 32))),
        replace(PLAN, network=NetworkSpec("small_net", 1.5, 10, (3, 32, 32))),
        replace(PLAN, network=NetworkSpec("small_net", 1.0, 10, (3, 64, 64))),
        replace(PLAN, groups={**PLAN.groups, "stem": Keep(33, 8)}),
        replace(PLAN, groups={"stem": Keep(32, 8)}),
    ],
)
def test_plans_of_different_networks_are_not_compared(other: ChannelPlan, tmp_path: Path) -> None:
    sentence = refused("plan", "diff", saved(tmp_path, PLAN), saved(tmp_path, other, "b"))
    assert sentence.startswith("The plans are of different networks, small_net x1, 10 classes,")


WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(("numpy", "torch", "torchvision", "timm")))
from dmcp_deploy.cli.main import main
main()
"""


def test_plans_are_shown_and_compared_where_there_is_no_torch(tmp_path: Path) -> None:
    path = saved(tmp_path, PLAN)
    for words in (("show", path), ("diff", path, path)):
        command = [sys.executable, "-c", WITHOUT_TORCH, "plan", *map(str, words)]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == succeed("plan", *words)


def test_what_is_no_plan_is_named(tmp_path: Path) -> None:
    assert refused("plan", "show", tmp_path / "none") == f"There is no plan file {tmp_path}/none."
    assert "has no plan.json: give a plan, or a run" in refused("plan", "show", tmp_path)
    empty = tmp_path / "empty.json"
    empty.write_text("")
    assert "empty.json is not readable as the JSON of a plan" in refused("plan", "show", empty)
    other = saved(tmp_path, PLAN)
    content = other.read_text().replace('"kind": "plan"', '"kind": "bench"')
    empty.write_text(content)
    assert "its kind is 'bench'" in refused("plan", "diff", other, empty)
    shutil.copy(other, tmp_path / "copy.json")
    assert succeed("plan", "diff", other, tmp_path / "copy.json")
