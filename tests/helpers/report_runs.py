"""Run directories whose every figure is known, written by the package's own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine_files import RECORD

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.layers.record import LayersRecord, LayerTime, OtherKernels, Profiled
from dmcp_deploy.bench.layers.roofline import Limits
from dmcp_deploy.bench.record import BenchRecord, Measured
from dmcp_deploy.onnxgraph.layers import OnnxLayer
from dmcp_deploy.plan import ChannelPlan, Keep, NetworkSpec
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.request import RunRequest

NETWORK = NetworkSpec("mobilenet_v2", 1.0, 2, (3, 64, 64))
KEPT = {"stem": (32, 24), "block.1": (96, 40), "last": (320, 320)}
LOSSES = [0.9, 0.75, 0.625, 0.5]
STAGES = ("search", "slice", "train", "export", "bench", "layers", "precision", "engine")

_SCHEDULE = {
    **{"epochs": 2, "batch_size": 8, "lr_start": 0.01, "lr": 0.05, "lr_end": 0.0},
    **{"warmup": 0.1, "weight_decay": 4e-5},
}
_PARITY = {"max_abs": 2e-6, "max_rel": 5e-7, "top1_agreement": 1.0}


def make_run(
    folder: Path,
    *,
    upto: str = "engine",
    macs: int = 190,
    top1: float = 0.75,
    median_ms: float = 6.0,
    cpu: str = "a cpu",
    **changes: Any,
) -> Path:
    """Writes a run that has come as far as a stage, and returns its directory.

    The budget is 200 of 400 multiply-adds; the original takes 10 ms.
    """
    run = RunDir(folder)
    run.begin(_request(**changes))
    done = STAGES[: STAGES.index(upto) + 1]
    _write_steps(folder, done)
    if "search" in done:
        _plan(macs).save(folder / "plan.json")
    if "bench" in done:
        _bench(macs, median_ms, cpu).save(folder / "bench.json")
    if "layers" in done:
        _layers().save(folder / "layers.json")
    for stage in done:
        if stage != "layers":  # a file, and no stage of the run's record
            _record(run, stage, top1)
    return folder


def edit(path: Path, *keys: Any, value: Any) -> None:
    """Replaces one value deep within a JSON file."""
    content = json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(content))


def _request(**changes: Any) -> RunRequest:
    fields: dict[str, Any] = {
        **{"network": NETWORK, "budget": "200", "method": "dmcp", "sampling": "expected"},
        **{"align": 8, "data": "elpv", "data_digest": "sha256:0", "weights": None},
        **{"weights_digest": None, "seed": 3, "init": "scratch", "distill": False},
        **{"precision": "fp32", "max_steps": None},
        "recipe": {"name": "demo", "search": _SCHEDULE, "train": _SCHEDULE},
    }
    return RunRequest(**{**fields, **changes})


def _write_steps(folder: Path, done: tuple[str, ...]) -> None:
    (folder / "metrics").mkdir()
    search = [{"step": 0, "loss": 2.5}]
    search += [
        {"step": i, "loss": 2.0, "arch_loss": 1.5, "expected_share": 1.3 - 0.1 * i}
        for i in (1, 2, 3)
    ]
    for step, share in ((1, 1.0), (3, 0.75)):
        search[step] |= {"kept/stem": share, "kept/block.1": share / 2, "kept/last": 1.0}
    _write_lines(folder / "metrics/search.jsonl", search)
    if "train" in done:
        train = [{"step": i, "loss": loss, "top1": 0.25 * i} for i, loss in enumerate(LOSSES)]
        _write_lines(folder / "metrics/train.jsonl", train)


def _write_lines(path: Path, steps: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(step)}\n" for step in steps))


def _plan(macs: int) -> ChannelPlan:
    groups = {name: Keep(size, kept) for name, (size, kept) in KEPT.items()}
    return ChannelPlan(NETWORK, groups, macs, 400, 1234, 200, "dmcp", 8, 3)


def _bench(macs: int, median_ms: float, cpu: str) -> BenchRecord:
    rounds = [1.0, 1.25] * 10
    base = Measured(
        *("original", "original.onnx", "sha256:1", 400, 2468, 1, "onnxruntime", 1),
        tuple(10.0 * r for r in rounds),
    )
    found = Measured(
        *("pruned", "model.onnx", "sha256:2", macs, 1234, 1, "onnxruntime", 1),
        tuple(median_ms * r for r in rounds),
    )
    return BenchRecord((base, found), {"cpu": cpu, "cores": 2, "load_average": [0.5]}, (3, 64, 64))


def _layers() -> LayersRecord:
    """The pruned network's second layer has half of the multiply-adds and takes as long."""
    networks = [
        Profiled(
            *(name, file, "sha256:1", 1, "onnxruntime", 1),
            layers=(_layer("stem", 8, 100 * out, 1.0), _layer("last", out, 300 * out, 5.0)),
            without_kernel=(),
            others=(OtherKernels("Pool", 2, (0.25,) * 20),),
            network_ms=(7.0,) * 20,
            limits=Limits(100.0, 10.0, None, 2**20),
        )
        for name, file, out in (("original", "original.onnx", 16), ("pruned", "model.onnx", 13))
    ]
    return LayersRecord(tuple(networks), {"cpu": "a cpu"}, (3, 64, 64))


def _layer(name: str, width: int, macs: int, median_ms: float) -> LayerTime:
    shape = OnnxLayer(name, "conv", macs, 64, 8, width, 1, (3, 3), (1, width, 8, 8), 512)
    return LayerTime(shape, (median_ms,) * 20)


def _record(run: RunDir, stage: str, top1: float) -> None:
    taken = {"top1": top1, "loss": 0.5, "images": 40, "image_size": 64}
    figures: dict[str, dict[str, Any]] = {
        "search": {
            "expected_macs": 198,
            "probabilities": [[0.5, 0.5], [1.0, 0.25], [1.0, 1.0]],
            "full_accuracy": {**taken, "top1": 0.5},
        },
        "slice": {"parity": _PARITY, "accuracy": {**taken, "top1": 0.25}},
        "train": {"accuracy": taken, "majority_share": 0.625},
        "export": {
            "asked": {"batch": None, "opset": 20},
            "model": {"parity": _PARITY},
            "original": {"parity": _PARITY},
        },
        "bench": {"asked": {"batches": [1, 8], "threads": 1, "seconds": 0.5}},
        "precision": {
            "asked": {"calibration": 48},
            "parity": {**_PARITY, "snr_db": 31.25},
            "top1": 0.7,
            "images": 40,
        },
    }
    if stage == "engine":
        _engine(run)
    elif stage == "precision":
        _stage(run, "precision int8", figures[stage])
        _stage(run, "precision bf16", {"asked": {}, "unchecked": "no bf16 on a CPU"})
    else:
        inputs = ["plan.json"] if stage in ("slice", "train", "export") else []
        _stage(run, stage, figures[stage], inputs)


def _stage(
    run: RunDir, stage: str, figures: dict[str, Any], inputs: list[str] | None = None
) -> None:
    with run.stage(stage, inputs or [], []) as found:
        found.update(figures)


def _engine(run: RunDir) -> None:
    folder = run.file("engines")
    folder.mkdir()
    for batch in (1, 8):
        path = folder / f"model.int8.tensorrt-rtx.b{batch}.sm86.engine"
        path.write_bytes(b"engine" * batch)
        fields = {
            **vars(RECORD),
            "engine": path.name,
            "engine_digest": digest_file(path),
            "engine_bytes": 6 * batch,
            "precision": "int8",
            "targets": ("sm86",),
            "batches": (batch,) * 3,
            "layer_precisions": {"int8": 51, "fp32": 1},
        }
        type(RECORD)(**fields).save(path)
        _stage(run, f"engine engines/{path.name}", {"engine_bytes": 6 * batch})
