"""Lower precisions on a trained network and real images: what they cost in accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import succeed

from dmcp_deploy.rundir.directory import RunDir


@pytest.mark.slow
@pytest.mark.usefixtures("fashion_mnist")
def test_fp16_and_int8_stay_within_a_point_on_fashion_mnist(tmp_path: Path) -> None:
    out = tmp_path / "run"
    model = ("--model", "small_mobilenet:small_mobilenet", "--input-size", 32)
    training = ("--method", "uniform", "--epochs", 0.7, "--batch-size", 128, "--seed", 1)
    data = ("--data", "fashion-mnist", "--flops", "50%", "--out", out)
    succeed("prune", *model, *data, *training, "--seconds", 0.2)
    succeed("export", out, "--precision", "fp32,fp16,int8")
    run = RunDir(out)
    found = {name: run.figures(f"precision {name}") for name in ("fp32", "fp16", "int8")}
    assert found["fp32"]["images"] == 10_000
    assert found["fp32"]["top1"] > 0.7
    assert abs(found["fp16"]["top1"] - found["fp32"]["top1"]) <= 0.002
    assert found["fp32"]["top1"] - found["int8"]["top1"] <= 0.01
    assert found["int8"]["parity"]["snr_db"] < found["fp16"]["parity"]["snr_db"]
