"""A plan file by itself: aligned, sliced, exported and measured, without a run and without data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from closeness import difference
from tiny_runs import MODEL, refused, succeed

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.proven import ONNX_TOLERANCE
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.importance import sort_channels
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.onnxgraph.cost import onnx_cost
from dmcp_deploy.onnxgraph.file import inspect_onnx
from dmcp_deploy.plan import ChannelPlan, Keep, NetworkSpec
from dmcp_deploy.runtimes.onnxruntime import OnnxSession
from dmcp_deploy.search.align import align_plan
from dmcp_deploy.training.weights import read_tensors, save_weights

SPEC = NetworkSpec(MODEL, 1.0, 3, (3, 32, 32))


def make_plan(share: float) -> ChannelPlan:
    """Returns a plan of the tiny network whose groups keep a share of their channels."""
    network = build_network(SPEC)
    cost = NetworkCost(network)
    kept = {
        g.name: max(1, round(share * g.units)) * g.unit if g.prunable else g.size
        for g in network.groups
    }
    groups = {g.name: Keep(g.size, kept[g.name]) for g in network.groups}
    totals = (cost.macs_at(kept), cost.full_macs, cost.params(kept))
    return ChannelPlan(SPEC, groups, *totals, None, "by hand", 1, 0)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    make_plan(0.7).save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of the full network, other than a plan's random ones."""
    save_weights(build_network(SPEC, seed=7).model, tmp_path / "full.safetensors")
    return tmp_path / "full.safetensors"


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, 32, 32), dtype=np.float32)


def computed(path: Path) -> np.ndarray:
    with OnnxSession(path, exact=True) as session:
        return session.run(images())


def test_a_plan_is_aligned_at_equal_multiply_adds_or_to_a_budget(plan: Path) -> None:
    out, before = plan.with_name("aligned.json"), ChannelPlan.load(plan)
    assert succeed("plan", "align", plan, "--align", 4, "--out", out).splitlines()[-1] == str(out)
    after = ChannelPlan.load(out)
    assert 0.98 <= after.macs / before.macs <= 1
    for keep in after.groups.values():
        assert keep.width % 4 == 0 or keep.width == keep.size or keep.size <= 4
    assert (after.method, after.align, after.budget_macs) == ("by hand:aligned", 4, before.macs)
    succeed("plan", "align", plan, "--align", 1, "--flops", "40%", "--out", out)
    after = ChannelPlan.load(out)
    assert 0.98 <= after.macs / (0.4 * after.full_macs) <= 1
    assert succeed("slice", out, "--out", plan.with_name("s.safetensors"))  # it is a whole plan


def test_a_plan_that_cannot_be_aligned_is_refused(plan: Path) -> None:
    out = plan.with_name("aligned.json")
    text = refused("plan", "align", plan, "--flops", "200G", "--out", out)
    assert "above the full network" in text
    assert "% to 100% of the network" in text
    assert "give another --out" in refused("plan", "align", plan, "--out", plan)
    loaded = ChannelPlan.load(plan)
    name, keep = next((n, k) for n, k in loaded.groups.items() if k.width < k.size)
    indexed = {
        **loaded.groups,
        name: Keep(keep.size, tuple(range(keep.size - keep.width, keep.size))),
    }
    with pytest.raises(DmcpError, match=f"channels of {name} by their index"):
        align_plan(ChannelPlan(**{**vars(loaded), "groups": indexed}), 8)
    assert not out.exists()


def test_plain_json_of_layers_is_a_plan(tmp_path: Path) -> None:
    network = build_network(SPEC)
    group = next(group for group in network.prunable if group.units > 2)
    file, out = tmp_path / "layers.json", tmp_path / "plan.json"
    file.write_text(json.dumps({group.layers[0]: group.size - group.unit}))
    how = ("--model", MODEL, "--classes", 3, "--input-size", 32, "--out", out)
    succeed("plan", "import", file, *how)
    widths = ChannelPlan.load(out).widths()
    assert widths == {**network.sizes(), group.name: group.size - group.unit}
    file.write_text(json.dumps({"no.such.layer": 4}))
    assert "'no.such.layer' is no layer" in refused("plan", "import", file, *how)


def test_slices_random_given_full_and_given_pruned_weights(plan: Path, weights: Path) -> None:
    loaded, out = ChannelPlan.load(plan), plan.with_name("sliced.safetensors")
    expected = {}
    for seed in (loaded.seed, 7):
        network = build_network(SPEC, seed)
        if seed == 7:
            sort_channels(network)
        expected[seed] = slice_network(network, loaded.groups).state_dict()
    for given, seed in (((), loaded.seed), (("--weights", weights), 7)):
        assert "differ by" in succeed("slice", plan, *given, "--out", out)
        written = read_tensors(out)
        assert written.keys() == expected[seed].keys()
        assert all(torch.equal(t, expected[seed][name]) for name, t in written.items())
    again = plan.with_name("again.safetensors")
    assert "differ by" not in succeed("slice", plan, "--weights", out, "--out", again)
    assert all(torch.equal(t, written[name]) for name, t in read_tensors(again).items())


def test_exports_what_it_slices(plan: Path, weights: Path) -> None:
    out, loaded = plan.with_name("net.onnx"), ChannelPlan.load(plan)
    given = ("--weights", weights, "--out", out)
    assert succeed("export", plan, *given, "--precision", "fp16").splitlines()[-1] == str(out)
    network = build_network(SPEC, 7)
    sort_channels(network)
    dense = slice_network(network, loaded.groups).eval()
    with torch.no_grad():
        truth = dense(torch.from_numpy(images())).numpy()
    assert difference(computed(out), truth) <= ONNX_TOLERANCE
    assert onnx_cost(out).macs == loaded.macs
    assert inspect_onnx(out.with_name("net.fp16.onnx")).precision == "fp16"
    props = {item.key: item.value for item in onnx.load(out).metadata_props}
    assert (props["model"], props["macs"]) == (MODEL, str(loaded.macs))


def test_int8_needs_images(plan: Path) -> None:
    out = plan.with_name("net.onnx")
    text = refused("export", plan, "--precision", "int8", "--out", out)
    assert "give --calibration-data FILE.npy" in text
    assert not out.exists()
    data = plan.with_name("images.npy")
    np.save(data, images(40))
    succeed("export", plan, "--precision", "int8", "--calibration-data", data, "--out", out)
    assert inspect_onnx(out.with_name("net.int8.onnx")).precision == "int8"


@pytest.mark.slow
def test_bench_measures_the_full_and_the_pruned_network(plan: Path) -> None:
    record = plan.with_name("bench.json")
    table = succeed("bench", plan, "--seconds", 0.2, "--save", record)
    assert "original" in table
    macs = {m["name"]: m["macs"] for m in json.loads(record.read_text())["measured"]}
    loaded = ChannelPlan.load(plan)
    assert macs == {"original": loaded.full_macs, "model": loaded.macs}


def test_what_only_a_plan_file_takes_is_refused_for_others(plan: Path, weights: Path) -> None:
    folder = plan.parent
    for command in ("slice", "export", "engine", "bench"):
        text = refused(command, folder, "--weights", weights)
        assert "--weights go with a plan file" in text
    assert "cannot take the place of the plan" in refused("slice", plan, "--out", plan)
    assert "There is no weights file" in refused("slice", plan, "--weights", folder / "none.pth")


@pytest.mark.parametrize("place", ["", ":model"])
def test_the_weights_that_are_read_are_not_written_over(
    place: str, plan: Path, weights: Path
) -> None:
    before = weights.read_bytes()
    for command in ("slice", "export"):
        words = (command, plan, "--weights", f"{weights}{place}", "--out", weights)
        assert f"cannot take the place of the weights {weights}: give" in refused(*words)
    assert weights.read_bytes() == before


def test_places_and_names_of_weights_are_minded(plan: Path, weights: Path) -> None:
    pruned = plan.with_name("pruned.safetensors")
    succeed("slice", plan, "--weights", "none", "--out", pruned)
    out = plan.with_name("other.safetensors")
    told = refused("slice", plan, "--weights", f"{pruned}:ema", "--out", out)
    assert "has no weights under 'ema': they lie under its top" in told
    assert "goes with runs" in refused("slice", plan, "--weights", "imagenet", "--out", out)
    assert not out.exists()
