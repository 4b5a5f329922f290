"""`groups` and `flops`: what they tell of a network, as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dynamic_nets import Between, trace
from tiny_pipeline_net import GROUPS
from tiny_runs import MODEL, call, succeed
from torch import Tensor

import dmcp_deploy
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.search.costs.asked import asked_budgets
from dmcp_deploy.search.run import plan_problem
from dmcp_deploy.training.recipe import RECIPES

#: Multiply-adds of convolution and linear layers at 224 px and 1000 classes, as published.
PUBLISHED = {
    ("mobilenet_v2", 1.0): 300_774_272,
    ("resnet18", 1.0): 1_814_073_344,
}
PUBLISHED_TOO = {
    ("mobilenet_v2", 1.5): 672_832_704,
    ("mobilenet_v2", 0.75): 209_069_792,
    ("mobilenet_v2", 0.5): 97_131_840,
    ("mobilenet_v2", 0.35): 59_285_808,
    ("resnet50", 1.0): 4_089_184_256,
    ("resnet50", 0.85): 2_967_983_244,
    ("resnet50", 0.75): 2_322_677_760,
    ("resnet50", 0.5): 1_052_311_552,
    ("resnet50", 0.25): 278_085_632,
}


def flops(*arguments: object) -> dict[str, object]:
    return dict(json.loads(succeed("flops", *arguments, "--json")))


@pytest.mark.parametrize(("model", "width_mult"), PUBLISHED)
def test_multiply_adds_are_those_of_the_papers(model: str, width_mult: float) -> None:
    counted = flops("--model", model, "--width-mult", width_mult)
    assert counted["macs"] == PUBLISHED[model, width_mult]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "width_mult"), PUBLISHED_TOO)
def test_more_multiply_adds_are_those_of_the_papers(model: str, width_mult: float) -> None:
    counted = flops("--model", model, "--width-mult", width_mult)
    assert counted["macs"] == PUBLISHED_TOO[model, width_mult]


def test_flops_lists_every_layer_with_its_share() -> None:
    counted = flops("--model", MODEL, "--input-size", 32, "--classes", 3)
    assert counted.keys() == {"model", "macs", "params", "activation_bytes", "layers"}
    layers = counted["layers"]
    assert isinstance(layers, list)
    by_name = {layer["name"]: layer for layer in layers}
    # 3 x 3 x 3 weights for each of 24 channels at 16 x 16 places; batch norms have no MACs.
    assert by_name["stem.0"]["macs"] == 27 * 24 * 16 * 16
    assert by_name["stem.0"]["params"] == 27 * 24
    assert by_name["depthwise.0"]["macs"] == 9 * 96 * 8 * 8
    assert by_name["inner.0"]["macs"] == 9 * 40 * 64 * 8 * 8
    assert by_name["classifier"]["macs"] == 128 * 3
    assert by_name["classifier"]["params"] == 128 * 3 + 3
    assert by_name["stem.0"]["activation_bytes"] == 4 * 24 * 16 * 16
    for total in ("macs", "activation_bytes"):
        assert counted[total] == sum(layer[total] for layer in layers)
    # Batch norms have a weight and a bias for each channel, and no line of their own.
    norms = 2 * (24 + 96 + 96 + 40 + 64 + 40 + 128)
    assert counted["params"] == norms + sum(layer["params"] for layer in layers)
    assert (by_name["expand.0"]["in_channels"], by_name["expand.0"]["out_channels"]) == (24, 96)


def test_params_are_those_of_the_model() -> None:
    assert dmcp_deploy.flops("resnet18")["params"] == 11_689_512


def test_flops_as_text_ends_with_the_sum_and_the_convention() -> None:
    text = succeed("flops", "--model", MODEL, "--input-size", 32, "--classes", 3)
    head, *rows, total, convention = text.splitlines()
    assert head.split() == ["layer", "kind", "in", "out", "MACs", "params", "activations"]
    assert rows[0].split()[:5] == ["stem.0", "conv", "3", "24", "165,888"]
    assert total.split()[:3] == ["in", "all", "3,023,232"]
    assert convention.startswith("3.0M multiply-adds of convolution and linear layers for one ")
    assert convention.endswith("params in all include normalisation")


@pytest.mark.xdist_group("run")
def test_flops_counts_at_the_widths_of_a_plan(finished_run: Path) -> None:
    plan = ChannelPlan.load(finished_run / "plan.json")
    counted = flops("--model", MODEL, "--plan", finished_run / "plan.json")
    assert counted["macs"] == plan.macs
    assert counted["params"] == plan.params
    layers = counted["layers"]
    assert isinstance(layers, list)
    assert layers[0]["out_channels"] == plan.widths()["stem.0"]


@pytest.mark.xdist_group("run")
def test_a_plan_of_another_network_is_refused(finished_run: Path) -> None:
    result = call("flops", "--model", "resnet18", "--plan", finished_run / "plan.json")
    assert result.exit_code == 1
    assert f"The plan was made for {MODEL} x1 and does not fit resnet18" in result.stderr


def test_groups_as_json_tell_name_size_and_why_one_stays_whole() -> None:
    listed = json.loads(succeed("groups", "--model", MODEL, "--input-size", 32, "--json"))
    assert {group["name"]: group["size"] for group in listed} == GROUPS
    by_name = {group["name"]: group for group in listed}
    for group in listed:
        assert {"name", "size", "prunable", "reason", "layers"} <= group.keys()
        assert group["prunable"]
        assert group["reason"] is None
        assert group["layers"][0] == group["name"]
    assert by_name["expand.0"]["layers"] == ["expand.0", "expand.1", "depthwise.0", "depthwise.1"]
    assert {"project.0", "outer.0"} <= set(by_name["project.0"]["layers"]), "tied by their sum"


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ("resnet18", 12),
        pytest.param("mobilenet_v2", 25, marks=pytest.mark.slow),
        pytest.param("resnet50", 37, marks=pytest.mark.slow),
    ],
)
def test_groups_of_known_networks_are_as_many_as_published(model: str, count: int) -> None:
    groups = dmcp_deploy.groups(model)
    assert len(groups) == count
    assert all(group["prunable"] for group in groups)


def test_groups_as_text_name_the_reason() -> None:
    text = succeed("groups", "--model", "shufflenet_v2_x0_5", "--input-size", 64)
    rows = text.splitlines()
    assert rows[0].split() == ["group", "size", "unit", "prunable", "layers"]
    listed = dmcp_deploy.groups("shufflenet_v2_x0_5", input_size=64)
    assert len(rows) == len(listed) + 2
    for group, row in zip(listed, rows[1:], strict=False):
        assert row.startswith(f"{group['name']} ")
        assert ("yes" if group["prunable"] else f"no: {group['reason']}") in row
    prunable = sum(group["prunable"] for group in listed)
    assert rows[-1].startswith(f"{len(listed)} groups, {prunable} prunable; ")


def test_a_network_that_holds_every_channel_says_which_and_why() -> None:
    def ordered(net: Any, x: Tensor) -> Tensor:
        return x.cumsum(1)

    network = trace(Between(ordered))
    (first,) = [group for group in network.groups if group.name == "first"]
    held = replace(network, groups=(first,))
    with pytest.raises(DmcpError, match="no channel group that can be narrowed") as told:
        plan_problem(held, asked_budgets(flops="50%"), 1, RECIPES["small"])
    assert "held are first (cumsum is not in the layer table)" in str(told.value)
