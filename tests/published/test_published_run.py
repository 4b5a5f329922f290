"""A published plan takes the place of a run's own: it slices, trains, exports and is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from published_plans import (
    DMCP_MOBILENET,
    DMCP_RESNET50,
    MOBILENET_SIZES,
    mobilenet_units,
    mutator,
    resnet50_dict,
    save_npy,
)
from tiny_runs import succeed

import dmcp_deploy
from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.export.slice import TOLERANCE
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.rundir.directory import RunDir


def resnet50(folder: Path) -> Path:
    return save_npy(folder / "sample.npy", resnet50_dict(DMCP_RESNET50))


def mobilenet(folder: Path) -> Path:
    path = folder / "published.json"
    path.write_text(mutator(mobilenet_units(DMCP_MOBILENET, MOBILENET_SIZES)))
    return path


@pytest.mark.slow(seconds=25)
@pytest.mark.parametrize(
    ("publish", "model", "width_mult", "widths"),
    [
        pytest.param(
            *(resnet50, "resnet50", 1.0, DMCP_RESNET50),
            marks=pytest.mark.nightly("a minute; MobileNetV2's plan takes the same way every time"),
        ),
        (mobilenet, "mobilenet_v2", 1.5, DMCP_MOBILENET),
    ],
)
def test_a_published_plan_slices_trains_exports_and_is_measured(
    publish: Callable[[Path], Path],
    model: str,
    width_mult: float,
    widths: tuple[int, ...],
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    network = ["--model", model, "--width-mult", width_mult]
    out = tmp_path / "run"
    trial = ["--max-steps", 1, "--batch-size", 4, "--method", "uniform", "--flops", "50%"]
    succeed("search", *network, "--data", tiny_folder, "--out", out, *trial)
    plan_file = out / "plan.json"
    succeed("plan", "import", publish(tmp_path), *network, "--classes", 3, "--out", plan_file)
    for stage in ("slice", "train", "export"):
        succeed(stage, out)
    succeed("bench", out, "--seconds", 1)

    run, plan = RunDir(out), ChannelPlan.load(plan_file)
    assert tuple(plan.widths().values()) == widths
    assert run.figures("slice")["parity"]["max_rel"] <= TOLERANCE
    assert run.figures("export")["model"]["macs"] == plan.macs
    assert sum(p.numel() for p in dmcp_deploy.load(out).parameters()) == plan.params
    original, pruned = BenchRecord.load(out / "bench.json").measured
    assert (original.macs, pruned.macs) == (plan.full_macs, plan.macs)
