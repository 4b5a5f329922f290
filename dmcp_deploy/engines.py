"""From a network's ONNX files to its engines, on a build machine or on the board; torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.onnx_cost import onnx_cost
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.engine import EngineOptions, Origin, build_engine, engine_name
from dmcp_deploy.export.onnx_file import inspect_onnx
from dmcp_deploy.export.precisions import (
    Evidence,
    check_precisions,
    convert,
    is_precision,
    precision_path,
    read_images,
)
from dmcp_deploy.extras import is_installed
from dmcp_deploy.progress import Progress
from dmcp_deploy.rundir import RunDir
from dmcp_deploy.runtimes.engine_record import EngineRecord
from dmcp_deploy.runtimes.trt_flavours import FLAVOURS

FOLDER = "engines"


@dataclass(frozen=True)
class EngineRequest:
    """Which engines of a network are asked for; bad values raise DmcpError.

    Attributes:
        precisions: Of "fp32", "fp16", "bf16", "int8", "fp8".
        builds: What to build each of them for, one engine each.
    """

    precisions: tuple[str, ...]
    builds: tuple[EngineOptions, ...]


def make_engine_request(
    runtime: str = "auto",
    precisions: Sequence[str] = ("fp16",),
    batches: Sequence[int] = (1,),
    dynamic_batch: Sequence[int] | None = None,
    **options: Any,
) -> EngineRequest:
    """Returns a request: a static engine for every batch size, or one for a range of them.

    Args:
        runtime: "tensorrt", "tensorrt-rtx", or "auto" for the one installed here.
        precisions: Of "fp32", "fp16", "bf16", "int8", "fp8".
        batches: Batch sizes of the static engines.
        dynamic_batch: Smallest, best and largest batch of one engine, in place of `batches`.
        **options: Further fields of `EngineOptions`.

    Raises:
        DmcpError: A value is not understood, or no TensorRT is installed.
    """
    runtime = installed_runtime() if runtime == "auto" else runtime
    ranges = _batch_ranges(batches, dynamic_batch)
    builds = [EngineOptions(runtime, batches=sizes, **options) for sizes in dict.fromkeys(ranges)]
    return EngineRequest(check_precisions(precisions), tuple(builds))


def installed_runtime() -> str:
    """Returns the TensorRT that is installed here, `tensorrt` before `tensorrt-rtx`.

    Raises:
        DmcpError: Neither is.
    """
    found = [name for name, flavour in FLAVOURS.items() if is_installed(flavour.module)]
    if found:
        return found[0]
    ways = "; ".join(f"{name}: {flavour.install}" for name, flavour in FLAVOURS.items())
    raise DmcpError(f"No TensorRT is installed here ({ways}).")


def engines_of_file(
    source: Path,
    folder: Path | None,
    request: EngineRequest,
    calibration_data: Path | None,
    progress: Progress,
) -> list[Path]:
    """Builds the engines of an ONNX file; returns their paths.

    What the file is not yet in a precision for is converted beside the engines; a file that is
    quantised already is taken as it is.

    Raises:
        DmcpError: The file, a precision or the machine does not allow it.
    """
    evidence = read_images(calibration_data) if calibration_data is not None else None
    folder = source.parent / FOLDER if folder is None else folder
    files = {p: _in_precision(source, folder, p, evidence) for p in request.precisions}
    return [
        _built(file, folder, build, None, progress)
        for file in files.values()
        for build in request.builds
    ]


def engines_of_run(
    run: RunDir, folder: Path | None, request: EngineRequest, progress: Progress
) -> list[Path]:
    """Builds the engines of a run that are not built yet; returns the paths of all.

    Raises:
        DmcpError: The run has no ONNX file in a precision, or the machine does not allow it.
    """
    source = run.file("model.onnx")
    engines = []
    for precision in request.precisions:
        file = precision_path(source, run.path, precision)
        if not file.exists():
            raise DmcpError(
                f"{run.path} has no {file.name} yet: run dmcp-deploy export {run.path}"
                f" --precision {precision} where torch and the data are."
            )
        for build in request.builds:
            engines.append(_built_in_run(run, file, folder, build, progress))
    return engines


def _batch_ranges(
    batches: Sequence[int], dynamic_batch: Sequence[int] | None
) -> list[tuple[int, int, int]]:
    if dynamic_batch is None:
        if not batches:
            raise DmcpError("--batch is empty: give batch sizes such as 1,8.")
        return [(batch, batch, batch) for batch in batches]
    if len(dynamic_batch) != 3:
        raise DmcpError(
            f"--dynamic-batch {','.join(map(str, dynamic_batch))} needs three sizes: the smallest,"
            " the best and the largest, such as 1,8,32."
        )
    smallest, best, largest = dynamic_batch
    return [(smallest, best, largest)]


def _built_in_run(
    run: RunDir, file: Path, folder: Path | None, build: EngineOptions, progress: Progress
) -> Path:
    plan = run.file("plan.json")
    plan_digest = digest_file(plan) if plan.exists() else None
    if folder is not None:
        return _built(file, folder, build, plan_digest, progress)
    precision = inspect_onnx(file).precision
    name = f"{FOLDER}/{engine_name(file, precision, build)}"
    stage = f"engine {name}"
    if run.is_current(stage):
        return run.file(name)
    with run.stage(stage, [file.name], [name]) as figures:
        engine = _built(file, run.file(FOLDER), build, plan_digest, progress)
        record = EngineRecord.load(engine)
        figures |= {"layer_precisions": dict(record.layer_precisions), "build_s": record.build_s}
        figures |= {"weight_bytes": record.weight_bytes, "engine_bytes": record.engine_bytes}
    return engine


def _built(
    file: Path, folder: Path, build: EngineOptions, plan_digest: str | None, progress: Progress
) -> Path:
    progress.say(f"Building {file.name} for {build.label}")
    cost = onnx_cost(file)
    return build_engine(file, folder, build, Origin(cost.macs, cost.params, plan_digest))[0]


def _in_precision(source: Path, folder: Path, precision: str, evidence: Evidence | None) -> Path:
    if is_precision(source, precision):
        return source
    found = inspect_onnx(source).precision
    if found != "fp32":
        raise DmcpError(
            f"{source} is {found} and cannot be turned into {precision}: give the FP32 file."
        )
    path = precision_path(source, folder, precision)
    convert(source, path, precision, evidence)
    return path
