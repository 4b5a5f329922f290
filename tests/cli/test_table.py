"""Latency tables by the command line: probe networks, table, predictions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_pipeline_net import GROUPS
from tiny_runs import MODEL, call, refused, snapshot, succeed

import dmcp_deploy
from dmcp_deploy.bench.tables.probes import ProbeSet
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.network.models import build_network
from dmcp_deploy.onnxgraph.layers import onnx_layers
from dmcp_deploy.plan import ChannelPlan, Keep, NetworkSpec
from dmcp_deploy.run.probes import draw_units
from dmcp_deploy.search.fit import width_grid
from dmcp_deploy.search.space import search_space

#: One worker builds the table that all of them read.
pytestmark = pytest.mark.xdist_group("table")

SIZE = ("--model", MODEL, "--input-size", 32, "--classes", 10)
SPEC = NetworkSpec(MODEL, 1.0, 10, (3, 32, 32))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns a folder with a table of four probe networks, built by one command."""
    folder = tmp_path_factory.mktemp("table")
    out = folder / "table.json"
    few = ("--probes", 4, "--plans", 10)
    text = succeed("table", "build", *SIZE, *few, "--threads", 1, "--out", out)
    assert text.splitlines()[0].startswith(f"{MODEL}: 8 layers in 4 probe networks")
    assert "and 10 whole plans" in text.splitlines()[0]
    assert text.splitlines()[-1] == str(out)
    return folder


def tiny_plan(**widths: int) -> ChannelPlan:
    network = build_network(SPEC)
    kept = {name.replace(".", "_"): size for name, size in GROUPS.items()} | widths
    groups = {
        g.name: Keep(g.size, kept.get(g.name.replace(".", "_"), g.size)) for g in network.groups
    }
    return ChannelPlan(SPEC, groups, 1, 1, 1, None, "uniform", 8, 0)


@pytest.mark.slow
def test_the_probes_have_the_widths_that_are_noted_of_them(made):
    probes = ProbeSet.load(made / "table-probes")
    assert {name: group.size for name, group in probes.groups.items()} == GROUPS
    assert probes.widths["full"] == GROUPS
    for name, path in probes.files(made / "table-probes").items():
        for layer in onnx_layers(path):
            form = probes.forms[layer.name]
            widths = probes.widths[name]
            assert form.inputs.at(widths, probes.groups) == layer.in_channels
            assert form.outputs.at(widths, probes.groups) == layer.out_channels


@pytest.mark.slow
def test_a_plan_and_its_onnx_file_are_predicted_alike(made, tmp_path):
    probes = ProbeSet.load(made / "table-probes")
    widths = {name.replace(".", "_"): width for name, width in probes.widths["probe002"].items()}
    tiny_plan(**widths).save(tmp_path / "plan.json")
    table, onnx = made / "table.json", made / "table-probes" / "probe002.onnx"
    text = succeed("table", "predict", table, tmp_path / "plan.json", onnx, "--json")
    by_plan, by_file = json.loads(text)
    assert by_plan["layers"] == by_file["layers"]
    assert by_plan["latency_ms"] == by_file["latency_ms"] > 0
    assert len(by_plan["layers"]) == 8


def test_a_run_directory_is_predicted_by_its_plan_and_layers_are_shown(made, tmp_path):
    tiny_plan(stem_0=16).save(tmp_path / "plan.json")
    text = succeed("table", "predict", made / "table.json", tmp_path, "--layers")
    assert text.splitlines()[1].startswith(str(tmp_path))
    assert [line.split()[:3] for line in text.splitlines() if line.startswith("stem.0")] == [
        ["stem.0", "3", "16"]
    ]


def test_the_same_commands_leave_finished_probes_as_they_are(made):
    folder = made / "table-probes"
    before = snapshot(folder)
    succeed("table", "probes", *SIZE, "--count", 4, "--out", folder)
    assert snapshot(folder) == before
    (folder / "probe003.onnx").unlink()
    succeed("table", "probes", *SIZE, "--count", 4, "--out", folder)
    assert {n for n, t in snapshot(folder).items() if before[n] != t} == {"probe003.onnx"}
    assert "holds other probe networks" in refused(
        "table", "probes", *SIZE, "--count", 5, "--out", folder
    )


def test_probes_of_a_folder_are_measured_again_into_another_table(made, tmp_path):
    out = tmp_path / "again.json"
    table = dmcp_deploy.table_build(made / "table-probes", out, plans=0, threads=1)
    assert LatencyTable.load(out) == table
    assert not table.plans
    assert not list(tmp_path.glob("*.part.json"))


def test_whole_plans_stand_in_the_table_with_the_full_network_beside_them(made):
    table = LatencyTable.load(made / "table.json")
    assert len(table.plans) == 10
    for plan in table.plans:
        assert len(plan.ms) == len(plan.reference_ms) == len(plan.ratios) == 3
        assert {name: min(w, GROUPS[name]) for name, w in plan.widths.items()} == plan.widths


def test_what_cannot_be_done_is_said_in_one_sentence(made, tmp_path):
    table, out = made / "table.json", tmp_path / "t.json"
    spec = NetworkSpec("resnet18")
    ChannelPlan(spec, {"a": Keep(8, 8)}, 1, 1, 1, None, "uniform", 8, 0).save(
        tmp_path / "plan.json"
    )
    assert "and the plan of resnet18" in refused("table", "predict", table, tmp_path / "plan.json")
    assert "holds probe networks" in refused("table", "predict", table, made / "table-probes")
    assert "There is no latency-table" in refused("table", "predict", out, tmp_path / "plan.json")
    build = ("table", "build", "--out", out)
    assert "There is no table-probes file" in refused(*build, "--probes", tmp_path)
    assert "must be how many" in refused(*build, *SIZE, "--probes", "few")
    assert "--probes 3 must lie in 4..999" in refused(*build, *SIZE, "--probes", 3)
    assert "--runtime 'torch' is unknown" in refused(*build, *SIZE, "--runtime", "torch")
    assert "--plans 3 must be 0 or lie in 10..999" in refused(*build, *SIZE, "--plans", 3)
    assert "--near 60 must be a share above 0" in refused(*build, *SIZE, "--near", 60)
    assert "--precision fp16 is for engines" in refused(*build, *SIZE, "--precision", "fp16")
    assert "There is no model 'nothing'" in refused(*build, "--model", "nothing")
    assert call("table", "predict", table).exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json"]


def test_every_group_sees_its_whole_range_evenly_and_pairs_vary():
    space = search_space(build_network(SPEC))
    grid = width_grid(space, 8)
    drawn = draw_units(space, grid, 24, seed=0)
    assert drawn.shape == (24, len(GROUPS))
    for axis, column in zip(grid.axes(), drawn.T, strict=True):
        counts = np.array([(column == width).sum() for width in axis])
        assert set(column.tolist()) <= set(axis)
        assert counts.max() - counts.min() <= 2
    assert (draw_units(space, grid, 24, seed=0) == drawn).all()
    assert (draw_units(space, grid, 24, seed=1) != drawn).any()
    pairs = {tuple(pair) for pair in drawn[:, :2].tolist()}
    assert len(pairs) > 12
