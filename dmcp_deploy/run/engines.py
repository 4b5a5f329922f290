"""From a network's ONNX files to its engines, on a build machine or on the board; torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dmcp_deploy.artifact import check_writable, digest_file
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.engine import (
    Origin,
    build_engine,
    check_fits,
    engine_name,
    gpu_of,
    still_holds,
)
from dmcp_deploy.export.engine_options import EngineOptions
from dmcp_deploy.export.precisions import (
    CALIBRATED,
    Evidence,
    check_evidence,
    check_precisions,
    convert,
    precision_path,
)
from dmcp_deploy.extras import is_installed
from dmcp_deploy.onnxgraph.cost import onnx_cost
from dmcp_deploy.onnxgraph.file import OnnxFile, inspect_onnx, require_fp32
from dmcp_deploy.options.declare import shared_fields
from dmcp_deploy.options.export import BuildOptions, TargetOptions
from dmcp_deploy.progress import Progress
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.stages import Stage
from dmcp_deploy.runtimes.engine_record import EngineRecord
from dmcp_deploy.runtimes.trt_flavours import FLAVOURS, load_flavour

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


def make_engine_request(options: BuildOptions) -> EngineRequest:
    """Returns a request: a static engine for every batch size, or one for a range of them.

    Raises:
        DmcpError: A value is not understood, or no TensorRT is installed.
    """
    runtime = installed_runtime() if options.runtime == "auto" else options.runtime
    ranges = _batch_ranges(options.batches, options.dynamic_batch)
    target = shared_fields(TargetOptions, options)
    builds = [EngineOptions(runtime, sizes, **target) for sizes in dict.fromkeys(ranges)]
    return EngineRequest(check_precisions(options.precisions), tuple(builds))


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


def check_machine(request: EngineRequest) -> None:
    """Checks that the engines of a request can be built on this machine.

    Raises:
        DmcpError: TensorRT does not load, or needs a GPU and there is none.
    """
    for runtime in {build.runtime for build in request.builds}:
        load_flavour(runtime)
        gpu_of(runtime)


def engines_of_file(
    source: Path,
    folder: Path | None,
    request: EngineRequest,
    evidence: Evidence | None,
    progress: Progress,
) -> list[Path]:
    """Builds the engines of an ONNX file; returns their paths.

    What the file is not yet in a precision for is converted beside the engines; a file that is
    quantised already is taken as it is.

    Raises:
        DmcpError: The file, a precision or the machine does not allow it.
    """
    folder = source.parent / FOLDER if folder is None else folder
    network = inspect_onnx(source)
    for precision in request.precisions:
        _check_precision(network, precision, evidence)
    for precision in request.precisions:
        _check_builds(replace(network, precision=precision), folder, request)
    files = [_in_precision(network, folder, p, evidence) for p in request.precisions]
    return [
        _built(file, folder, build, None, progress) for file in files for build in request.builds
    ]


def check_static(source: Path, folder: Path, precision: str | None, request: EngineRequest) -> str:
    """Returns the precision that a file's engines are built in to be measured.

    Args:
        source: The ONNX file.
        folder: Where the engines lie.
        precision: What was asked for; None for FP16, or what the file has already.
        request: What to build for.

    Raises:
        DmcpError: The file cannot be built as asked, or would have to be calibrated.
    """
    network = inspect_onnx(source)
    usual = "fp16" if network.precision == "fp32" else network.precision
    wanted = usual if precision is None else precision
    if wanted in CALIBRATED and wanted != network.precision:
        raise DmcpError(
            f"--precision {wanted} is calibrated on images, which bench does not have: give the"
            f" {wanted} ONNX file or engine that dmcp-deploy engine or export made of {source}."
        )
    _check_precision(network, wanted, None)
    _check_builds(replace(network, precision=wanted), folder, request)
    return wanted


def static_engines(
    source: Path, folder: Path, precision: str, request: EngineRequest, progress: Progress
) -> dict[int, Path]:
    """Returns batch size -> the static engine of an ONNX file; what still holds is not built.

    Args:
        source: The ONNX file.
        folder: Where the engines lie, and the file in that precision.
        precision: What `check_static` returned.
        request: What to build for.
        progress: Told of what is built.

    Raises:
        DmcpError: An engine cannot be built.
    """
    file = _in_precision(inspect_onnx(source), folder, precision, None)
    digest = inspect_onnx(file).digest
    engines = {}
    for build in request.builds:
        path = folder / engine_name(file, precision, build)
        if not (_is_usable(path, build) and EngineRecord.load(path).onnx_digest == digest):
            path = _built(file, folder, build, None, progress)
        engines[build.batches[0]] = path
    return engines


def check_run(run: RunDir, request: EngineRequest) -> None:
    """Checks that a run's network can be built as asked, before it is converted and judged.

    Raises:
        DmcpError: It cannot.
    """
    source = run.file("model.onnx")
    if not source.exists():
        return
    network = inspect_onnx(source)
    for precision in request.precisions:
        for build in request.builds:
            check_fits(replace(network, precision=precision), build)


def engines_of_run(
    run: RunDir, folder: Path | None, request: EngineRequest, progress: Progress
) -> list[Path]:
    """Builds the engines of a run that are not built yet; returns the paths of all.

    Raises:
        DmcpError: The run has no ONNX file in a precision, or the machine does not allow it.
    """
    files = {precision: _file_of_run(run, precision) for precision in request.precisions}
    for file in files.values():
        _check_builds(inspect_onnx(file), folder or run.file(FOLDER), request)
    return [
        _built_in_run(run, file, precision, folder, build, progress)
        for precision, file in files.items()
        for build in request.builds
    ]


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


def _check_builds(network: OnnxFile, folder: Path, request: EngineRequest) -> None:
    """Checks all builds of a network before the first: one takes minutes on a board."""
    for build in request.builds:
        check_fits(network, build)
        check_writable(folder / engine_name(network.path, network.precision, build))


def _file_of_run(run: RunDir, precision: str) -> Path:
    """Returns a run's network in a precision, if it is that of the network that lies there now."""
    source = run.file("model.onnx")
    file = precision_path(source, run.path, precision)
    record = run.stages().get(Stage.precision(precision))
    made = None if record is None else record.inputs.get(source.name)
    remedy = f"run dmcp-deploy export {run.path} --precision {precision} where torch and the data"
    if not file.exists():
        raise DmcpError(f"{run.path} has no {file.name} yet: {remedy} are.")
    # A board may have the converted file alone.
    if file != source and made and source.exists() and digest_file(source) != made:
        raise DmcpError(f"{file} was made of another {source.name}: {remedy} are.")
    return file


def _built_in_run(
    run: RunDir,
    file: Path,
    precision: str,
    folder: Path | None,
    build: EngineOptions,
    progress: Progress,
) -> Path:
    plan = run.file("plan.json")
    plan_digest = digest_file(plan) if plan.exists() else None
    if folder is not None:
        return _built(file, folder, build, plan_digest, progress)
    name = f"{FOLDER}/{engine_name(file, precision, build)}"
    stage = Stage.engine(name)
    if run.is_current(stage) and _is_usable(run.file(name), build):
        return run.file(name)
    with run.stage(stage, [file.name], [name]) as figures:
        engine = _built(file, run.file(FOLDER), build, plan_digest, progress)
        record = EngineRecord.load(engine)
        figures |= {"layer_precisions": dict(record.layer_precisions), "build_s": record.build_s}
        figures |= {"weight_bytes": record.weight_bytes, "engine_bytes": record.engine_bytes}
    return engine


def _is_usable(engine: Path, build: EngineOptions) -> bool:
    """Returns whether an engine is whole and would be built no other way today."""
    try:
        record = EngineRecord.load(engine)
    except DmcpError:
        return False
    return still_holds(record, build)


def _built(
    file: Path, folder: Path, build: EngineOptions, plan_digest: str | None, progress: Progress
) -> Path:
    progress.say(f"Building {file.name} for {build.label}")
    cost = onnx_cost(file)
    return build_engine(file, folder, build, Origin(cost.macs, cost.params, plan_digest))[0]


def _check_precision(network: OnnxFile, precision: str, evidence: Evidence | None) -> None:
    if network.precision == precision:
        return
    require_fp32(network)
    check_evidence(network.path, precision, evidence)


def _in_precision(
    network: OnnxFile, folder: Path, precision: str, evidence: Evidence | None
) -> Path:
    if network.precision == precision:
        return network.path
    path = precision_path(network.path, folder, precision)
    convert(network.path, path, precision, evidence)
    return path
