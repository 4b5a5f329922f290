"""Which stored records a measurement compares with, by what the environment tells of devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_onnx import write_tiny_net

from dmcp_deploy.bench.comparable import NotComparableError, compare_with_baseline, gate_baseline
from dmcp_deploy.bench.measure import measure_artifacts
from dmcp_deploy.bench.record import BenchRecord, Measured
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.run import gates

NET = Measured(
    name="model",
    path="model.onnx",
    digest="sha256:aa",
    macs=1000,
    params=10,
    batch=1,
    runtime="onnxruntime",
    threads=1,
    samples_ms=(2.0,) * 20,
)
OLD = {"machine": "x86_64", "cpu": "a cpu", "cores": 4}
ENGINE: dict[str, Any] = {"runtime": "tensorrt 10.3.0 fp16", "timing": "events+graph"}


def on(*gpus: str, **more: Any) -> dict[str, Any]:
    return {**OLD, "gpus": [{"name": name} for name in gpus], **more}


def record(environment: dict[str, Any], **fields: Any) -> BenchRecord:
    return BenchRecord((replace(NET, **fields),), environment, (3, 8, 8))


@pytest.mark.parametrize(
    ("before", "now", "named"),
    [
        (record(on("Orin"), **ENGINE), record(on("H100"), **ENGINE), "GPU was Orin and is H100"),
        (record(on("Orin"), **ENGINE), record(on(), **ENGINE), "GPU was Orin and is unknown"),
        (record(OLD, **ENGINE), record(on("H100"), **ENGINE), "GPU was unknown and is H100"),
        (
            record(on("Orin"), runtime="torch cuda", timing="events"),
            record(on("H100"), runtime="torch cuda", timing="events"),
            "GPU was Orin and is H100",
        ),
        (record(OLD, precision="fp32"), record(OLD, precision="int8"), "precision was fp32 and is"),
        (
            record(on("A"), **ENGINE),
            record(on("A"), **{**ENGINE, "timing": "events"}),
            "timing was events+graph and is events",
        ),
        (
            record(on(power_mode="MAXN")),
            record(on(power_mode="15W")),
            "power mode was MAXN and is 15W",
        ),
    ],
)
def test_another_gpu_precision_timing_or_power_mode_does_not_compare(
    before: BenchRecord, now: BenchRecord, named: str
) -> None:
    with pytest.raises(NotComparableError) as caught:
        compare_with_baseline(before, now, 0.05)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        # A record of the first release tells neither GPU nor precision.
        (record(OLD), record(on("H100", power_mode="MAXN"), precision="fp32")),
        # What a CPU measures does not depend on the GPU beside it.
        (record(on("Orin")), record(on("H100"))),
        (record(on("H100", "A100"), **ENGINE), record(on("H100"), **ENGINE)),
        (record(on(power_mode="MAXN")), record(on(power_mode=None))),
    ],
)
def test_what_cannot_matter_or_was_not_known_is_no_difference(
    before: BenchRecord, now: BenchRecord
) -> None:
    assert not compare_with_baseline(before, now, 0.05).is_regression


def test_networks_that_ran_alone_do_not_compare_with_those_that_took_turns() -> None:
    turns, alone = record(OLD), replace(record(OLD), alone=True)
    with pytest.raises(NotComparableError, match="order of calls was in turn and is each alone"):
        compare_with_baseline(turns, alone, 0.05)
    assert not compare_with_baseline(alone, alone, 0.05).is_regression


@pytest.mark.parametrize("alone", [False, True])
def test_a_gate_measures_as_its_baseline_was(alone: bool, tmp_path: Path) -> None:
    net = write_tiny_net(tmp_path / "model.onnx", width=8, size=16).path
    how = BenchOptions([1], 1, 0.05)
    baseline = measure_artifacts({"model": net}, replace(how, alone=alone), warmup_s=0.0)
    assert baseline.alone == alone
    assert gate_baseline({"model": net}, baseline, 9.0, how).record.alone == alone
    with pytest.raises(NotComparableError, match="order of calls was"):
        gate_baseline({"model": net}, baseline, 9.0, replace(how, alone=not alone))


def test_a_driver_and_cores_that_changed_are_told() -> None:
    before = record(on("A", gpu_driver="560", cuda="12.6", pinned_cores=[0]))
    now = record(on("A", gpu_driver="580", cuda="13.0", pinned_cores=None))
    notes = " ".join(compare_with_baseline(before, now, 0.05).notes)
    assert "gpu_driver: 560 then, 580 now" in notes
    assert "cuda: 12.6 then, 13.0 now" in notes
    assert "pinned_cores: [0] then, None now" in notes


def test_a_baseline_of_another_gpu_is_refused_before_anything_is_measured() -> None:
    here = {key: read_environment()[key] for key in ("machine", "cpu", "cores")}
    elsewhere = record({**here, "gpus": [{"name": "another GPU"}]}, **ENGINE)
    with pytest.raises(NotComparableError, match="GPU was another GPU and is"):
        gate_baseline({"model": Path("gone.engine")}, elsewhere, 0.05, BenchOptions([1], 1, 600))


@pytest.mark.slow
def test_a_record_of_the_same_files_made_here_compares(tmp_path: Path) -> None:
    net = write_tiny_net(tmp_path / "model.onnx", width=32, size=64).path
    how = BenchOptions([1], 1, 0.2)
    baseline = measure_artifacts({"model": net}, how)
    baseline.save(tmp_path / "baseline.json")
    result = gates.gate(net, baseline=tmp_path / "baseline.json", max_regress="900%", options=how)
    assert not result.is_regression
    assert all("Not the same" not in note for note in result.notes)
