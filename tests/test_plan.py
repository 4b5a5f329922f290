from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import ChannelPlan, Keep, NetworkSpec, PlanLimit


@pytest.fixture
def plan() -> ChannelPlan:
    return ChannelPlan(
        network=NetworkSpec("mobilenet_v2", 0.75, 10, (1, 96, 128)),
        groups={"features.0.0": Keep(32, 24), "features.1.conv.0.0": Keep(8, (0, 3, 7))},
        macs=100,
        full_macs=200,
        params=300,
        budget_macs=101,
        method="dmcp",
        align=8,
        seed=5,
    )


def test_round_trip(plan: ChannelPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    loaded = ChannelPlan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert list(loaded.groups) == list(plan.groups)


def test_round_trip_without_budget(plan: ChannelPlan, tmp_path: Path) -> None:
    free = ChannelPlan(**{**vars(plan), "budget_macs": None})
    free.save(tmp_path / "plan.json")
    assert ChannelPlan.load(tmp_path / "plan.json") == free


def test_same_plan_is_the_same_bytes(plan: ChannelPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "a.json")
    ChannelPlan.load(tmp_path / "a.json").save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_plan_below_the_usual_share_of_its_budget_says_what_helps(plan: ChannelPlan) -> None:
    assert plan.shortfall() == ""  # 100 of 101
    assert replace(plan, budget_macs=None).shortfall() == ""
    other = PlanLimit("parameters", "50%", 1000.0, 900.0)
    only = replace(plan, budget_macs=None, limits=(other,))
    assert only.shortfall() == (
        "The plan reaches 90.0% of the budget of 1.0K parameters, where 98% is usual: no wider one"
        " was found among multiples of 8; --align 1 offers more."
    )
    assert replace(only, align=1).shortfall().endswith("found among its widths.")
    assert replace(only, budget_macs=101).shortfall() == ""  # of several one is nearly filled
    assert replace(plan, budget_macs=102).shortfall() == ""
    assert replace(plan, budget_macs=160).shortfall() == (
        "The plan reaches 62.5% of the budget of 160 multiply-adds, where 98% is usual: no wider"
        " one was found among multiples of 8; --align 1 offers more, and --flops 100 is reached"
        " just so."
    )
    assert (
        replace(plan, budget_macs=160, align=1)
        .shortfall()
        .endswith("no wider one was found among its widths; --flops 100 is reached just so.")
    )


def test_widths_that_end_steps_of_time_say_so(plan: ChannelPlan) -> None:
    assert plan.multiples() == "8"
    assert plan.step_column() == [(), (), ()]
    steps = {"features.0.0": 16, "features.1.conv.0.0": 8}
    groups = {"features.0.0": Keep(40, 32), "features.1.conv.0.0": Keep(24, 24)}
    timed = replace(plan, groups={**groups, "pinned": Keep(5, 5)}, steps=steps)
    assert timed.multiples() == "8 or 16"
    assert timed.step_column() == [("step of time",), ("2 of 3 by 16",), ("3 of 3 by 8",), ("",)]
    assert replace(timed, align=32).multiples() == "32"
    small = {**groups, "features.0.0": Keep(16, 16)}
    assert replace(timed, groups=small).multiples() == "8"


def test_below_a_budget_steps_of_time_stand_in_for_the_alignment(plan: ChannelPlan) -> None:
    low = PlanLimit("milliseconds", "4ms", 4.0, 3.0)
    groups = {"features.0.0": Keep(40, 32)}
    timed = replace(
        plan, groups=groups, budget_macs=None, limits=(low,), steps={"features.0.0": 16}
    )
    assert timed.shortfall().endswith("no wider one was found among multiples of 16.")


def test_a_plan_that_is_not_proven_says_so(plan: ChannelPlan) -> None:
    assert plan.notes() == replace(plan, is_proven=True).notes() == ()
    doubt = "It is not proven that no plan within the budgets is nearer to what the search wanted."
    assert replace(plan, is_proven=False).notes() == (doubt,)
    low = replace(plan, is_proven=False, budget_macs=160)
    assert low.notes() == (low.shortfall(), doubt)


def test_steps_and_proof_are_kept_where_there_are_any(plan: ChannelPlan, tmp_path: Path) -> None:
    assert not {"steps", "is_proven"} & plan.to_json().keys()
    timed = replace(plan, steps={"features.0.0": 16}, is_proven=False)
    timed.save(tmp_path / "plan.json")
    assert ChannelPlan.load(tmp_path / "plan.json") == timed


def test_count_keeps_the_leading_channels() -> None:
    keep = Keep(8, 3)
    assert (keep.width, keep.indices()) == (3, [0, 1, 2])


def test_indices_are_kept_as_they_are() -> None:
    keep = Keep(8, (1, 4, 7))
    assert (keep.width, keep.indices()) == (3, [1, 4, 7])


def test_widths_count_both_kinds(plan: ChannelPlan) -> None:
    assert plan.widths() == {"features.0.0": 24, "features.1.conv.0.0": 3}


@pytest.mark.parametrize(
    ("size", "kept", "complaint"),
    [
        (8, 0, "group of 8 channels cannot keep 0"),
        (8, 9, "group of 8 channels cannot keep 9"),
        (8, -1, "cannot keep -1"),
        (0, 1, "group of 0 channels"),
        (8, (), "at least one"),
        (8, (1, 1), "ascending, each once"),
        (8, (3, 2), "ascending, each once"),
        (8, (0, 8), "run from 0 to 8 in a group of 8"),
        (8, (-1, 2), "run from -1 to 2 in a group of 8"),
    ],
)
def test_impossible_keep_is_refused(size: int, kept: int | tuple[int, ...], complaint: str) -> None:
    with pytest.raises(DmcpError, match=complaint):
        Keep(size, kept)


def test_plan_fits_the_network_it_was_made_for(plan: ChannelPlan) -> None:
    plan.check_fits({"features.1.conv.0.0": 8, "features.0.0": 32}, "mobilenet_v2")


@pytest.mark.parametrize(
    ("sizes", "clash"),
    [
        (
            {"features.0.0": 64, "features.1.conv.0.0": 8},
            "'features.0.0' has 32 channels in the plan and 64 in the network",
        ),
        (
            {"features.0.0": 32},
            "'features.1.conv.0.0' has 8 channels in the plan and none in the network",
        ),
        (
            {"features.0.0": 32, "features.1.conv.0.0": 8, "head": 5},
            "'head' has no channels in the plan and 5 in the network",
        ),
    ],
)
def test_plan_of_another_network_names_both_and_the_first_clash(
    plan: ChannelPlan, sizes: dict[str, int], clash: str
) -> None:
    with pytest.raises(DmcpError) as caught:
        plan.check_fits(sizes, "resnet18")
    assert str(caught.value) == (
        f"The plan was made for mobilenet_v2 x0.75 and does not fit resnet18: group {clash}."
    )


DELETE = object()
DAMAGES = [
    (("groups",), DELETE),
    (("model", "name"), DELETE),
    (("seed",), DELETE),
    (("budget_macs",), DELETE),
    (("groups",), ["features.0.0"]),
    (("groups", "features.0.0"), 24),
    (("groups", "features.0.0", "keep"), None),
    (("groups", "features.0.0", "keep"), True),
    (("groups", "features.0.0", "keep"), 12.5),
    (("groups", "features.0.0", "keep"), "24"),
    (("groups", "features.0.0", "keep"), [0, 1.5]),
    (("groups", "features.0.0", "keep"), [0, "1"]),
    (("groups", "features.0.0", "size"), 32.5),
    (("groups", "features.0.0", "size"), None),
    (("model",), "mobilenet_v2"),
    (("model", "input"), [3, 224]),
    (("model", "input"), 224),
    (("model", "width_mult"), "wide"),
    (("macs",), "many"),
    (("macs",), None),
    (("macs",), float("inf")),
    (("seed",), [1]),
]


@pytest.mark.parametrize(("keys", "value"), DAMAGES)
def test_damaged_plan_is_one_sentence_with_its_path(
    plan: ChannelPlan, tmp_path: Path, keys: tuple[str, ...], value: object
) -> None:
    path = damaged(plan, tmp_path / "plan.json", keys, value)
    with pytest.raises(DmcpError, match=r"^The plan .*plan\.json lacks or misstates .*\.$"):
        ChannelPlan.load(path)


def test_damage_names_the_field_and_the_value_found(plan: ChannelPlan, tmp_path: Path) -> None:
    path = damaged(plan, tmp_path / "plan.json", ("macs",), "many")
    with pytest.raises(DmcpError, match="misstates 'macs': 'many'"):
        ChannelPlan.load(path)
    path = damaged(plan, tmp_path / "plan.json", ("params",), DELETE)
    with pytest.raises(DmcpError, match="lacks or misstates 'params'"):
        ChannelPlan.load(path)


@pytest.mark.parametrize("kept", [0, 33, [], [3, 2], [0, 32]])
def test_impossible_keep_in_a_file_names_the_file_and_the_group(
    plan: ChannelPlan, tmp_path: Path, kept: object
) -> None:
    path = damaged(plan, tmp_path / "plan.json", ("groups", "features.0.0", "keep"), kept)
    with pytest.raises(DmcpError, match=r"^The plan .*plan\.json is not valid: .*features\.0\.0"):
        ChannelPlan.load(path)


def damaged(plan: ChannelPlan, path: Path, keys: tuple[str, ...], value: object) -> Path:
    plan.save(path)
    assert ChannelPlan.load(path) == plan
    content: Any = json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    if value is DELETE:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    path.write_text(json.dumps(content))
    return path


def test_other_budgets_are_on_record_and_a_flops_budget_alone_leaves_none(
    plan: ChannelPlan, tmp_path: Path
) -> None:
    plan.save(tmp_path / "alone.json")
    assert "limits" not in json.loads((tmp_path / "alone.json").read_text())
    others = (
        PlanLimit("parameters", "2M", 2e6, 1.96e6),
        PlanLimit("milliseconds", "9%", 4.0, 3.9),
    )
    several = replace(plan, limits=others)
    several.save(tmp_path / "several.json")
    loaded = ChannelPlan.load(tmp_path / "several.json")
    assert loaded == several
    texts = [budget.text for budget in loaded.budgets()]
    assert texts == ["101 multiply-adds", "2.0M parameters", "4.00 ms"]
    assert [budget.share for budget in loaded.budgets()] == [100 / 101, 0.98, 0.975]
