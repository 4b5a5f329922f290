"""The paper's networks at their full size: every stage, a few steps of each, on real images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_runs import succeed

import dmcp_deploy
from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.export.proven import ONNX_TOLERANCE
from dmcp_deploy.export.slice import TOLERANCE
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.units import parse_budget

pytestmark = [pytest.mark.slow(seconds=40), pytest.mark.needs("elpv")]

NIGHTLY = pytest.mark.nightly("a minute, for the stages that MobileNetV2 goes through every time")

#: As many recalibration batches as a trial needs, and the deployed size in training too.
TRIAL = {"base": "demo", "train_size": 224, "recalibration_batches": 2}


@pytest.mark.parametrize(
    ("model", "budget", "groups"),
    [
        ("mobilenet_v2", "211M", 25),
        pytest.param("resnet18", "1.04G", 12, marks=NIGHTLY),
        pytest.param("resnet50", "2.2G", 37, marks=NIGHTLY),
    ],
)
def test_a_trial_of_every_stage_ends_in_the_band_with_equal_outputs(
    model: str, budget: str, groups: int, tmp_path: Path
) -> None:
    recipe, out = tmp_path / "trial.json", tmp_path / "run"
    recipe.write_text(json.dumps(TRIAL))
    words = ["--model", model, "--flops", budget, "--recipe", recipe, "--out", out]
    succeed("prune", *words, "--max-steps", 3, "--batch-size", 4, "--seconds", 1)

    run, plan = RunDir(out), ChannelPlan.load(out / "plan.json")
    assert plan.network.input_shape == (3, 224, 224)
    assert len(plan.groups) == groups
    assert plan.budget_macs == parse_budget(budget).amount
    assert 0.98 <= plan.macs / plan.budget_macs <= 1.0
    assert all(keep.width % 8 == 0 for keep in plan.groups.values())
    assert run.figures("slice")["parity"]["max_rel"] <= TOLERANCE
    for name in ("model", "original"):
        assert run.figures("export")[name]["parity"]["max_rel"] <= ONNX_TOLERANCE
    assert run.figures("train")["steps"] == 3
    assert run.figures("train")["accuracy"]["image_size"] == 224
    params = sum(p.numel() for p in dmcp_deploy.load(out).parameters())
    assert params == plan.params
    original, pruned = BenchRecord.load(out / "bench.json").measured
    assert (original.macs, pruned.macs) == (plan.full_macs, plan.macs)
