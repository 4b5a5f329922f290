"""The chain of stages over one run directory: search, slice, train, export, engine, bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmcp_deploy.artifact import check_writable
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.extras import is_installed, require
from dmcp_deploy.progress import NO_PROGRESS
from dmcp_deploy.rundir.directory import RunDir, folder_name
from dmcp_deploy.rundir.files import artifact_files, named_files, old_and_new, run_files
from dmcp_deploy.rundir.request import CALIBRATION_IMAGES, BenchOptions, Compute, RunOptions
from dmcp_deploy.rundir.stages import BENCH

if TYPE_CHECKING:
    from torch import nn

    from dmcp_deploy.bench.gate import GateResult
    from dmcp_deploy.bench.record import BenchRecord

_SEARCH_LIBRARIES = ("torch", "torchvision", "safetensors", "PIL")
_ENGINE_LIBRARIES = ("onnx", "onnxruntime")
_EXPORT_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


def prune(
    model: str,
    flops: str,
    *,
    out: Path | str | None = None,
    bench_options: Mapping[str, Any] | None = None,
    engine_options: Mapping[str, Any] | None = None,
    compute: Compute | None = None,
    **options: Any,
) -> RunDir:
    """Runs the whole chain and returns the run directory; continues a run that lies there.

    Args:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        flops: The budget: "211M", "1.04G" or "50%" of the full network's multiply-adds.
        out: The run directory; "runs/MODEL-FLOPS" by default.
        bench_options: Fields of `BenchOptions`.
        engine_options: What `engine` takes, to build TensorRT engines as well; None builds none.
        compute: Device, workers, checkpoints, progress.
        **options: Fields of `RunOptions`.

    Raises:
        DmcpError: Something asked for cannot be had; found before any training.
    """
    require(*_SEARCH_LIBRARIES, *_EXPORT_LIBRARIES)
    from dmcp_deploy.run.artifacts import check_runtime
    from dmcp_deploy.training.distributed import is_main

    wanted = BenchOptions(**(bench_options or {}))
    check_runtime(wanted.runtime)
    compute = compute or Compute()
    if engine_options is not None:
        _check_engine_options(**engine_options)
    run = search(model, flops, out=out, compute=compute, **options)
    for stage in (slice, train, export):
        stage(run.path, compute=compute)
    if engine_options is not None:
        engine(run.path, compute=compute, **engine_options)
    if is_main() and not run.is_current(BENCH, wanted.to_json()):
        _bench_run(run, wanted, compute)
    return run


def search(
    model: str,
    flops: str,
    *,
    out: Path | str | None = None,
    compute: Compute | None = None,
    **options: Any,
) -> RunDir:
    """Finds the channel plan of a network for a budget; returns the run directory.

    Args:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        flops: The budget: "211M", "1.04G" or "50%" of the full network's multiply-adds.
        out: The run directory; "runs/MODEL-FLOPS" by default.
        compute: Device, workers, checkpoints, progress.
        **options: Fields of `RunOptions`.

    Raises:
        DmcpError: Something asked for cannot be had; found before any training.
    """
    require(*_SEARCH_LIBRARIES)
    from dmcp_deploy.run.context import RunContext
    from dmcp_deploy.run.resolve import make_request
    from dmcp_deploy.run.stages import run_search

    compute = _joined(compute)
    request = make_request(model, flops, RunOptions(**options), compute)
    run = RunDir(Path(out) if out is not None else Path("runs") / folder_name(f"{model}-{flops}"))
    run_search(RunContext(run, request, compute))
    return run


def slice(run_dir: Path | str, *, compute: Compute | None = None) -> RunDir:
    """Slices the trained full network of a run by its plan, and proves the result equal.

    Raises:
        DmcpError: There is no plan, or the sliced network computes something else.
    """
    require(*_SEARCH_LIBRARIES)
    from dmcp_deploy.run.context import RunContext
    from dmcp_deploy.run.stages import run_slice

    context = RunContext.resume(Path(run_dir), _joined(compute))
    run_slice(context)
    return context.run


def train(run_dir: Path | str, *, compute: Compute | None = None) -> RunDir:
    """Trains the pruned network of a run: from scratch, from sliced weights, or distilled.

    Raises:
        DmcpError: There is no plan yet, or a checkpoint is damaged.
    """
    require(*_SEARCH_LIBRARIES)
    from dmcp_deploy.run.context import RunContext
    from dmcp_deploy.run.stages import run_train

    context = RunContext.resume(Path(run_dir), _joined(compute))
    run_train(context)
    return context.run


def export(
    run_dir: Path | str,
    *,
    batch: int | None = None,
    opset: int = 20,
    original: bool = True,
    precisions: Sequence[str] = (),
    calibration: int = CALIBRATION_IMAGES,
    compute: Compute | None = None,
) -> RunDir:
    """Exports the pruned network of a run, and the full one to compare with, to ONNX.

    Args:
        run_dir: The run directory.
        batch: Images per call; None leaves the batch dynamic.
        opset: ONNX operator set.
        original: Whether the full network is exported as well.
        precisions: Also convert the pruned network to these ("fp16", "bf16", "int8", "fp8") and
            judge each by the validation images; "fp32" judges the export itself.
        calibration: Training images that "int8" and "fp8" are calibrated on.
        compute: Device and progress.

    Raises:
        DmcpError: The network is not trained yet, or ONNX Runtime computes something else.
    """
    require(*_SEARCH_LIBRARIES, *_EXPORT_LIBRARIES)
    from dmcp_deploy.export.precisions import check_precisions, check_request
    from dmcp_deploy.run.context import RunContext
    from dmcp_deploy.run.stages import run_export, run_precisions

    asked = check_precisions(precisions) if precisions else ()
    check_request(asked, calibration)
    context = RunContext.resume(Path(run_dir), _joined(compute))
    run_export(context, batch, opset, original)
    run_precisions(context, asked, calibration)
    return context.run


def engine(
    source: Path | str,
    *,
    out: Path | str | None = None,
    calibration: int | None = None,
    calibration_data: Path | str | None = None,
    compute: Compute | None = None,
    **options: Any,
) -> list[Path]:
    """Builds TensorRT engines of an ONNX file, or of a run's pruned network; returns their paths.

    Where torch and the other libraries of the search are installed, precisions that a run has no
    ONNX file for are converted and judged first; on a board they must have been made before. Of
    processes that torchrun has started, the first alone builds.

    Args:
        source: An ONNX file, or a run directory.
        out: Folder of the engines; by default "engines" beside the ONNX file.
        calibration: Training images of the run that "int8" and "fp8" are calibrated on; None takes
            what the run has calibrated before, and 64 where there is nothing yet.
        calibration_data: Calibration images for an ONNX file: float32 [N, C, H, W], as .npy.
        compute: Device and progress.
        **options: What `engines.make_engine_request` takes: runtime, precisions, batches,
            dynamic_batch, gpu_archs, dla, timing_cache and others.

    Raises:
        DmcpError: Something asked for cannot be had, or an engine is not in the precision.
    """
    require(*_ENGINE_LIBRARIES)
    from dmcp_deploy.export.precisions import check_request
    from dmcp_deploy.run.engines import (
        check_machine,
        check_run,
        engines_of_file,
        engines_of_run,
        make_engine_request,
    )

    source, folder = Path(source), Path(out) if out is not None else None
    request, compute = make_engine_request(**options), compute or Compute()
    check_machine(request)  # before anything is converted
    if not source.is_dir():
        images = Path(calibration_data) if calibration_data is not None else None
        return engines_of_file(source, folder, request, images, compute.progress)
    if calibration_data is not None:
        raise DmcpError(
            f"--calibration-data is for an ONNX file: the run {source} is calibrated on its own"
            " training images (--calibration N)."
        )
    check_request(request.precisions, _count(calibration))
    run = RunDir(source)
    check_run(run, request)
    # A board's torch may come without the rest of what training needs.
    if all(map(is_installed, _SEARCH_LIBRARIES)) and not _convert(
        run, request.precisions, calibration, compute
    ):
        return []
    return engines_of_run(run, folder, request, compute.progress)


def bench(
    *artifacts: Path | str,
    batches: Sequence[int] = (1,),
    threads: int = 0,
    seconds: float = 10.0,
    runtime: str = "onnxruntime",
    save: Path | str | None = None,
    compute: Compute | None = None,
    **options: Any,
) -> BenchRecord:
    """Measures ONNX files, engines, or a run's original and pruned network, interleaved.

    Args:
        *artifacts: ONNX files, engines or run directories; all are compared with the first network.
        batches: Images per call.
        threads: Threads on a CPU, each pinned with a core; 0 leaves both to the runtime.
        seconds: Measuring time per batch size.
        runtime: What runs ONNX files: "onnxruntime" or "openvino"; "torch" for run directories;
            "tensorrt" or "tensorrt-rtx" to build engines first.
        save: Where to write the record; a single run directory keeps its own bench.json.
        compute: Where to report progress.
        **options: Further fields of `BenchOptions`, for GPUs: graph, transfers, precision.

    Raises:
        DmcpError: A file is missing, or the networks cannot be compared.
    """
    wanted = BenchOptions(batches, threads, seconds, runtime, **options)
    compute = compute or Compute()
    if save is not None:
        check_writable(Path(save))
    paths = [Path(artifact) for artifact in artifacts]
    if len(paths) == 1 and paths[0].is_dir():
        record = _bench_run(RunDir(paths[0]), wanted, compute)
    else:
        record = _measure(artifact_files(paths), wanted, compute)
    if save is not None:
        record.save(Path(save))
    return record


def gate(
    *artifacts: Path | str,
    baseline: Path | str | None = None,
    against: Path | str | None = None,
    max_regress: str = "5%",
    save: Path | str | None = None,
    compute: Compute | None = None,
    **options: Any,
) -> GateResult:
    """Returns whether networks got slower: than a stored record says, or than an older artifact.

    Args:
        *artifacts: As for `bench`; with `against` one, where a run stands for its pruned network.
        baseline: A record that `bench` has saved.
        against: An older artifact, measured now, interleaved with the new one.
        max_regress: The slowdown that is allowed, such as "5%".
        save: Where to write the record of what was measured; a run's own is left as it is.
        compute: Where to report progress.
        **options: Fields of `BenchOptions`; with `against`, `seconds` is the most, and 4.

    Raises:
        NotComparableError: The baseline was measured otherwise, or elsewhere.
        DmcpError: A file is missing, or the networks cannot be compared.
    """
    from dmcp_deploy.bench import comparable, record
    from dmcp_deploy.bench.gate import GATE_SECONDS, gate_against, parse_limit
    from dmcp_deploy.run.artifacts import artifacts_of

    limit, paths = parse_limit(max_regress), [Path(artifact) for artifact in artifacts]
    if (baseline is None) == (against is None):
        raise DmcpError("A gate needs either a baseline or an older artifact to measure against.")
    if against is not None:
        options = {"seconds": GATE_SECONDS, **options}
    wanted, compute = BenchOptions(**options), compute or Compute()
    how = _how(wanted, compute)
    if save is not None:
        check_writable(Path(save))
    if against is not None:
        pair = dict(old_and_new(Path(against), paths))
        old, new = artifacts_of(pair, wanted, compute.progress).items()
        result = gate_against(old, new, limit, **how)
    else:
        stored = record.BenchRecord.load(Path(str(baseline)))
        named = artifacts_of(named_files(paths), wanted, compute.progress)
        result = comparable.gate_baseline(named, stored, limit, **how)
    if save is not None:
        result.record.save(Path(save))
    return result


def load(run_dir: Path | str) -> nn.Module:
    """Returns the pruned, trained network of a run in evaluation mode, from plan and weights.

    Raises:
        DmcpError: The run has no plan or no trained weights yet, or they do not fit.
    """
    require(*_SEARCH_LIBRARIES)
    from dmcp_deploy.run.networks import load_dense

    return load_dense(Path(run_dir))


def _convert(
    run: RunDir, precisions: Sequence[str], calibration: int | None, compute: Compute
) -> bool:
    """Converts a run's network to precisions; returns whether this process is the first."""
    from dmcp_deploy.run.context import RunContext
    from dmcp_deploy.run.stages import run_precisions
    from dmcp_deploy.training.distributed import is_main

    run_precisions(RunContext.resume(run.path, _joined(compute)), precisions, calibration)
    return is_main()


def _check_engine_options(
    *,
    out: Path | str | None = None,
    calibration: int | None = None,
    **options: Any,
) -> None:
    """Finds what is wrong with an engine's options before hours of training."""
    from dmcp_deploy.export.precisions import check_request
    from dmcp_deploy.run.engines import check_machine, make_engine_request

    request = make_engine_request(**options)
    check_request(request.precisions, _count(calibration))
    check_machine(request)


def _count(calibration: int | None) -> int:
    return CALIBRATION_IMAGES if calibration is None else calibration


def _joined(compute: Compute | None) -> Compute:
    """Joins the other processes if torchrun has started this one; the first alone reports."""
    from dmcp_deploy.training.distributed import is_main, join_torchrun

    compute = compute or Compute()
    join_torchrun(compute.device)
    return compute if is_main() else replace(compute, progress=NO_PROGRESS)


def _bench_run(run: RunDir, options: BenchOptions, compute: Compute) -> BenchRecord:
    files = run_files(run.path)
    run.request()  # what is no run is found before the measurement
    with run.stage(BENCH, ["model.onnx", "original.onnx"], ["bench.json"]) as figures:
        figures["asked"] = options.to_json()
        record = _measure(files, options, compute)
        record.save(run.file("bench.json"))
    return record


def _measure(files: Mapping[str, Path], options: BenchOptions, compute: Compute) -> BenchRecord:
    from dmcp_deploy.bench.measure import measure_artifacts
    from dmcp_deploy.run.artifacts import artifacts_of

    artifacts = artifacts_of(files, options, compute.progress)
    return measure_artifacts(artifacts, **_how(options, compute))


def _how(options: BenchOptions, compute: Compute) -> dict[str, Any]:
    """Returns how to measure, as the functions of the room take it."""
    # Engines have their precision by then.
    asked = {key: value for key, value in vars(options).items() if key != "precision"}
    return {**asked, "progress": compute.progress}
