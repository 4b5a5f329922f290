"""The chain of stages over one run directory: search, slice, train, export, engine, bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmcp_deploy.artifact import check_writable
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.extras import is_installed, require
from dmcp_deploy.options.declare import merged
from dmcp_deploy.options.export import CALIBRATION_IMAGES, BuildOptions, ExportOptions
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.options.run import Budgets, Compute, RunOptions
from dmcp_deploy.progress import NO_PROGRESS
from dmcp_deploy.rundir.directory import RunDir, folder_name
from dmcp_deploy.rundir.files import artifact_files, run_files
from dmcp_deploy.rundir.stages import BENCH

if TYPE_CHECKING:
    from torch import nn

    from dmcp_deploy.bench.record import BenchRecord
    from dmcp_deploy.run.engines import EngineRequest

_SEARCH_LIBRARIES = ("torch", "torchvision", "safetensors", "PIL")
_ENGINE_LIBRARIES = ("onnx", "onnxruntime")
_EXPORT_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


def prune(
    model: str,
    flops: str | None = None,
    *,
    latency: str | None = None,
    params: str | None = None,
    weight_bytes: str | None = None,
    table: Path | str | None = None,
    target: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    options: RunOptions | None = None,
    bench_options: BenchOptions | Mapping[str, Any] | None = None,
    engine_options: BuildOptions | Mapping[str, Any] | None = None,
    compute: Compute | None = None,
    **changes: Any,
) -> RunDir:
    """Runs the whole chain and returns the run directory; continues a run that lies there.

    Args:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        flops: A budget: "211M", "1.04G" or "50%" of the full network's multiply-adds.
        latency: A budget in time on the target: "25ms", or "60%" of the full network's.
        params: A budget in parameters: "2M" or "50%".
        weight_bytes: A budget in bytes of weights: "8MB" or "50%", in FP32 or in the precision of
            `target`. All budgets that are given hold.
        table: The latency table of the target; None builds one here if there is none yet.
        target: What `latency` is for: fields of `Setting` (runtime, precision, threads, batch);
            None takes the table's, or else those of `bench_options`.
        out: The run directory; "runs/MODEL-BUDGETS" by default.
        options: What else is asked for.
        bench_options: How to measure, as an object or its fields.
        engine_options: Which TensorRT engines to build as well; None builds none.
        compute: Device, workers, checkpoints, progress.
        **changes: Fields of `RunOptions` that differ from `options`: `seed=1, method="autoslim"`.

    Raises:
        DmcpError: Something asked for cannot be had; found before any training.
    """
    require(*_SEARCH_LIBRARIES, *_EXPORT_LIBRARIES)
    from dmcp_deploy.run.artifacts import check_runtime
    from dmcp_deploy.training.distributed import is_main

    measured = merged(BenchOptions, bench_options)
    check_runtime(measured.runtime, measured.threads)
    compute = compute or Compute()
    built = None if engine_options is None else merged(BuildOptions, engine_options)
    engines = None if built is None else _check_build(built)
    budgets = Budgets(flops, latency, params, weight_bytes, table)
    if target is None and table is None:
        target = measured_target(measured)
    asked = merged(RunOptions, options, **changes)
    run = _search(model, budgets, target, out, asked, compute, engines)
    for stage in (slice, train, export):
        stage(run.path, compute=compute)
    if built is not None:
        engine(run.path, options=built, compute=compute)
    if is_main() and not run.is_current(BENCH, measured.to_json()):
        _bench_run(run, measured, compute)
    return run


def search(
    model: str,
    flops: str | None = None,
    *,
    latency: str | None = None,
    params: str | None = None,
    weight_bytes: str | None = None,
    table: Path | str | None = None,
    target: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    options: RunOptions | None = None,
    compute: Compute | None = None,
    **changes: Any,
) -> RunDir:
    """Finds the channel plan of a network for a budget; returns the run directory.

    Args:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        flops: A budget: "211M", "1.04G" or "50%" of the full network's multiply-adds.
        latency: A budget in time on the target: "25ms", or "60%" of the full network's.
        params: A budget in parameters: "2M" or "50%".
        weight_bytes: A budget in bytes of weights: "8MB" or "50%", in FP32 or in the precision of
            `target`. All budgets that are given hold.
        table: The latency table of the target; None builds one here if there is none yet.
        target: What `latency` is for: fields of `Setting` (runtime, precision, threads, batch);
            None takes the table's.
        out: The run directory; "runs/MODEL-BUDGETS" by default.
        options: What else is asked for.
        compute: Device, workers, checkpoints, progress.
        **changes: Fields of `RunOptions` that differ from `options`.

    Raises:
        DmcpError: Something asked for cannot be had; found before any training.
    """
    require(*_SEARCH_LIBRARIES)
    budgets = Budgets(flops, latency, params, weight_bytes, table)
    return _search(model, budgets, target, out, merged(RunOptions, options, **changes), compute)


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
    options: ExportOptions | None = None,
    compute: Compute | None = None,
    **changes: Any,
) -> RunDir:
    """Exports the pruned network of a run, and the full one to compare with, to ONNX.

    Args:
        run_dir: The run directory.
        options: Which files.
        compute: Device and progress.
        **changes: Fields of `ExportOptions` that differ from `options`.

    Raises:
        DmcpError: The network is not trained yet, or ONNX Runtime computes something else.
    """
    require(*_SEARCH_LIBRARIES, *_EXPORT_LIBRARIES)
    from dmcp_deploy.export.precisions import check_precisions, check_request
    from dmcp_deploy.run.context import RunContext
    from dmcp_deploy.run.stages import run_export, run_precisions

    asked = merged(ExportOptions, options, **changes)
    precisions = check_precisions(asked.precisions) if asked.precisions else ()
    check_request(precisions, asked.calibration)
    context = RunContext.resume(Path(run_dir), _joined(compute))
    run_export(context, asked.batch, asked.opset, asked.original)
    run_precisions(context, precisions, asked.calibration, asked.calibration_method)
    return context.run


def engine(
    source: Path | str,
    *,
    options: BuildOptions | None = None,
    compute: Compute | None = None,
    **changes: Any,
) -> list[Path]:
    """Builds TensorRT engines of an ONNX file, or of a run's pruned network; returns their paths.

    Where torch and the other libraries of the search are installed, precisions that a run has no
    ONNX file for are converted and judged first; on a board they must have been made before. Of
    processes that torchrun has started, the first alone builds.

    Args:
        source: An ONNX file, or a run directory.
        options: Which engines.
        compute: Device and progress.
        **changes: Fields of `BuildOptions` that differ from `options`.

    Raises:
        DmcpError: Something asked for cannot be had, or an engine is not in the precision.
    """
    require(*_ENGINE_LIBRARIES)
    from dmcp_deploy.export.precisions import check_request, read_images
    from dmcp_deploy.run.engines import (
        check_machine,
        check_run,
        engines_of_file,
        engines_of_run,
        make_engine_request,
    )

    asked = merged(BuildOptions, options, **changes)
    source, folder = Path(source), None if asked.out is None else Path(asked.out)
    images = None if asked.calibration_data is None else Path(asked.calibration_data)
    request, compute = make_engine_request(asked), compute or Compute()
    check_machine(request)  # before anything is converted
    if not source.is_dir():
        evidence = None if images is None else read_images(images, asked.calibration_method)
        return engines_of_file(source, folder, request, evidence, compute.progress)
    if images is not None:
        raise DmcpError(
            f"--calibration-data is for an ONNX file: the run {source} is calibrated on its own"
            " training images (--calibration N)."
        )
    check_request(request.precisions, _count(asked))
    run = RunDir(source)
    check_run(run, request)
    # A board's torch may come without the rest of what training needs.
    if all(map(is_installed, _SEARCH_LIBRARIES)) and not _convert(
        run, request.precisions, asked, compute
    ):
        return []
    return engines_of_run(run, folder, request, compute.progress)


def bench(
    *artifacts: Path | str,
    save: Path | str | None = None,
    options: BenchOptions | None = None,
    compute: Compute | None = None,
    **changes: Any,
) -> BenchRecord:
    """Measures ONNX files, engines, or a run's original and pruned network, interleaved.

    Args:
        *artifacts: ONNX files, engines or run directories; all are compared with the first network.
        save: Where to write the record; a single run directory keeps its own bench.json.
        options: How to measure.
        compute: Where to report progress.
        **changes: Fields of `BenchOptions` that differ from `options`: `batches=(1, 8)`.

    Raises:
        DmcpError: A file is missing, or the networks cannot be compared.
    """
    wanted, compute = merged(BenchOptions, options, **changes), compute or Compute()
    if save is not None:
        check_writable(Path(save), "bench")
    paths = [Path(artifact) for artifact in artifacts]
    if len(paths) == 1 and paths[0].is_dir():
        record = _bench_run(RunDir(paths[0]), wanted, compute)
    else:
        record = _measure(artifact_files(paths), wanted, compute)
    if save is not None:
        record.save(Path(save))
    return record


def load(run_dir: Path | str) -> nn.Module:
    """Returns the pruned, trained network of a run in evaluation mode, from plan and weights.

    Raises:
        DmcpError: The run has no plan or no trained weights yet, or they do not fit.
    """
    require(*_SEARCH_LIBRARIES)
    from dmcp_deploy.run.networks import load_dense

    return load_dense(Path(run_dir))


def _convert(run: RunDir, precisions: Sequence[str], asked: BuildOptions, compute: Compute) -> bool:
    """Converts a run's network to precisions; returns whether this process is the first."""
    from dmcp_deploy.run.context import RunContext
    from dmcp_deploy.run.stages import run_precisions
    from dmcp_deploy.training.distributed import is_main

    context = RunContext.resume(run.path, _joined(compute))
    run_precisions(context, precisions, asked.calibration, asked.calibration_method)
    return is_main()


def _search(
    model: str,
    budgets: Budgets,
    target: Mapping[str, Any] | None,
    out: Path | str | None,
    options: RunOptions,
    compute: Compute | None,
    engines: EngineRequest | None = None,
) -> RunDir:
    from dmcp_deploy.run.certify import run_certify
    from dmcp_deploy.run.context import RunContext
    from dmcp_deploy.run.rehearsal import rehearse
    from dmcp_deploy.run.resolve import continued, make_request
    from dmcp_deploy.run.stages import prepare_search, run_search

    compute = _joined(compute)
    run = RunDir(Path(out) if out is not None else Path("runs") / folder_name(f"{model}-{budgets}"))
    request = make_request(model, budgets, options, compute, run, target=target)
    begun = run.holds(request)
    context = RunContext(run, *continued(run, request, compute))
    problem, result = prepare_search(context), None
    if problem is not None:
        if compute.rehearse and not begun:
            rehearse(context, problem, engines)
        result = run_search(context, problem)
    run_certify(context, problem, result)
    return run


def measured_target(measured: BenchOptions) -> dict[str, Any]:
    """Returns what a budget in time is for where measurements are all that is told."""
    names = ("runtime", "threads", "precision")
    told = {name: getattr(measured, name) for name in names if getattr(measured, name) is not None}
    return {**told, "batch": measured.batches[0]}


def _check_build(options: BuildOptions) -> EngineRequest:
    """Returns the engines asked for; finds what is wrong with them before hours of training."""
    from dmcp_deploy.export.precisions import check_request
    from dmcp_deploy.run.engines import check_machine, make_engine_request

    request = make_engine_request(options)
    check_request(request.precisions, _count(options))
    check_machine(request)
    return request


def _count(options: BuildOptions) -> int:
    return CALIBRATION_IMAGES if options.calibration is None else options.calibration


def _joined(compute: Compute | None) -> Compute:
    """Joins the other processes if torchrun has started this one; the first alone reports."""
    from dmcp_deploy.training.distributed import is_main, join_torchrun

    compute = compute or Compute()
    join_torchrun(compute.device)
    return compute if is_main() else replace(compute, progress=NO_PROGRESS)


def _bench_run(run: RunDir, options: BenchOptions, compute: Compute) -> BenchRecord:
    files = run_files(run.path)
    alone = run.request().latency is not None if options.alone is None else options.alone
    with run.stage(BENCH, ["model.onnx", "original.onnx"], ["bench.json"]) as figures:
        figures["asked"] = options.to_json()
        record = _measure(files, replace(options, alone=alone), compute)
        record.save(run.file("bench.json"))
    return record


def _measure(files: Mapping[str, Path], options: BenchOptions, compute: Compute) -> BenchRecord:
    from dmcp_deploy.bench.measure import measure_artifacts
    from dmcp_deploy.run.artifacts import artifacts_of

    artifacts = artifacts_of(files, options, compute.progress)
    return measure_artifacts(artifacts, options, progress=compute.progress)
