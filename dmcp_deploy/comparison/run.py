"""Runs every cell of a comparison, then measures and gathers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from dmcp_deploy.artifact import digest_file, write_text
from dmcp_deploy.bench.tables.cache import elsewhere
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.comparison.cells import Cell, Entry, all_cells, parse_entries
from dmcp_deploy.comparison.page import page
from dmcp_deploy.comparison.pieces import ORIGINAL, CellRun, FullTraining, Setting
from dmcp_deploy.comparison.record import (
    LATENCY,
    LATENCY_FILE,
    Comparison,
    read_cell,
    read_full,
)
from dmcp_deploy.comparison.workers import work_through
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.extras import require
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.options.compare import COMPARE_SECONDS, TRAINED, CompareOptions
from dmcp_deploy.options.declare import declared, merged, recorded
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.options.run import Compute, RunOptions
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.registry import NETWORK_RUNTIMES
from dmcp_deploy.run import api
from dmcp_deploy.run.artifacts import check_runtime
from dmcp_deploy.run.budgets import check_budgets, split_budgets
from dmcp_deploy.run.context import RunContext
from dmcp_deploy.run.problem import search_problem
from dmcp_deploy.run.rehearsal import rehearse
from dmcp_deploy.run.resolve import make_request
from dmcp_deploy.rundir.directory import RunDir, folder_name

#: What every cell of a comparison has of its own.
_OF_CELLS = {"method", "weights", "distill", "seed"}


def compare(
    model: str,
    flops: str | None = None,
    *,
    options: RunOptions | None = None,
    bench_options: BenchOptions | Mapping[str, Any] | None = None,
    compute: Compute | None = None,
    target: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Comparison:
    """Returns how search methods do at equal budgets; continues a comparison that lies there.

    Every cell (method, budget, seed) is a run directory below `out`, made by the same stages as
    `prune`; "compare.json" and "compare.html" are written once all are there. Methods, budgets
    and seeds may be added later.

    Args:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        flops: Budgets such as "25%,10%".
        options: What is asked of all runs.
        bench_options: How to measure, as an object or its fields; 4 seconds if not given.
        compute: Device, workers, checkpoints, progress.
        target: What a budget in time is for: fields of `Setting`; None takes the table's, or else
            those of `bench_options`.
        **changes: Fields of `CompareOptions` (latency, params, weight_bytes, table, methods,
            seeds, jobs, out, weights, init), and those of `RunOptions` that differ from `options`.

    Raises:
        DmcpError: Something asked for cannot be had; found before any training where it can be.
    """
    require("torch", "torchvision", "safetensors", "PIL", "onnx", "onnxscript", "onnxruntime")
    known = changes.keys() & {item.name for item in declared(CompareOptions)}
    asked = CompareOptions(flops, **{name: changes.pop(name) for name in known})
    if not isinstance(bench_options, BenchOptions):
        bench_options = BenchOptions(**{"seconds": COMPARE_SECONDS, **(bench_options or {})})
    given = None if asked.weights == TRAINED else asked.weights
    shared = merged(RunOptions, options, **changes, init=asked.init, weights=given)
    if target is None and asked.table is None:
        target = api.measured_target(bench_options)
    return _compare(model, asked, shared, target, bench_options, compute or Compute())


def _compare(
    model: str,
    asked: CompareOptions,
    shared: RunOptions,
    target: Mapping[str, Any] | None,
    measured: BenchOptions,
    compute: Compute,
) -> Comparison:
    entries = parse_entries(asked.methods)
    _check_entries(entries, asked.init)
    budgets = {str(one): one for one in split_budgets(asked.budgets)}
    cells = all_cells(entries, list(budgets), asked.seeds)
    _check_runtime(measured)
    _check_undisturbed(asked)
    check_budgets(model, list(budgets.values()), shared, compute, target)
    folder = Path(asked.out or Path("runs") / f"compare-{folder_name(model)}")
    quiet = compute if asked.jobs == 1 else replace(compute, progress=NO_PROGRESS)
    quiet = replace(quiet, rehearse=False)
    trains_full = asked.weights == TRAINED
    setting = Setting(folder, model, budgets, target, shared, trains_full, quiet)
    if compute.rehearse:
        _rehearse(setting, cells, compute)

    full = range(asked.seeds) if trains_full else ()
    trainings = [FullTraining(setting, seed) for seed in full]
    failed = _work(trainings, asked.jobs, "full networks", compute.progress)
    for problem in failed.values():
        raise DmcpError(problem)
    failures = _run_cells(setting, cells, asked.jobs, compute.progress)
    done = [cell for cell in cells if str(cell) not in failures]
    _measure([setting.run(cell) for cell in done], measured, compute)
    comparison = Comparison(
        request=_request(model, asked, shared, target, measured),
        environment=read_environment(),
        full=tuple(read_full(seed, setting.full(seed)) for seed in full),
        results=tuple(read_cell(cell, folder) for cell in done),
        failures=failures,
    )
    comparison.save(folder / "compare.json")
    write_text(folder / "compare.html", page(comparison))
    return comparison


def _rehearse(setting: Setting, cells: Sequence[Cell], compute: Compute) -> None:
    """Tries the whole chain of every method that has not begun, at its first budget and seed.

    Raises:
        DmcpError: A part of a chain fails.
    """
    first: dict[Entry, Cell] = {}
    for cell in cells:
        first.setdefault(replace(cell.entry, supernet=None), cell)
    quiet = replace(compute, progress=NO_PROGRESS)
    for cell in first.values():
        run, budgets = setting.run(cell), setting.budgets[cell.budget]
        if run.path.exists():
            continue
        options = setting.of_cell(cell)
        request = make_request(setting.model, budgets, options, quiet, target=setting.target)
        context = RunContext(run, request, compute)
        rehearse(context, search_problem(context))


def _check_entries(entries: Sequence[Entry], init: str) -> None:
    """Checks that networks start from the weights that their rows are named after.

    Raises:
        DmcpError: They start anew.
    """
    cut = next((entry for entry in entries if entry.supernet is not None), None)
    if cut is not None and init != "sliced":
        raise DmcpError(
            f"--methods {cut} starts from the weights that {cut.supernet} leaves, and --init {init}"
            f" from none of them: leave --init out, or {cut.method} without its supernet."
        )


def _check_undisturbed(asked: CompareOptions) -> None:
    """Checks that no plan is measured while other runs are at work.

    Raises:
        DmcpError: One would be.
    """
    if asked.latency is None or asked.jobs == 1:
        return
    table = None if asked.table is None else LatencyTable.load(Path(asked.table))
    if table is None or elsewhere(table, read_environment(devices=True)) is None:
        raise DmcpError(
            f"--jobs {asked.jobs} disturbs --latency {asked.latency}: every search measures its"
            " plan, so runs go one after the other: leave --jobs out."
        )


def _check_runtime(measured: BenchOptions) -> None:
    """Checks that a runtime is there and measures ONNX files.

    Raises:
        DmcpError: It is not, or does not.
    """
    runtime = measured.runtime
    check_runtime(runtime, measured.threads)
    if runtime in NETWORK_RUNTIMES:
        raise DmcpError(
            f"--runtime {runtime} measures run directories one by one (bench): compare"
            " measures ONNX files or engines."
        )


def _run_cells(
    setting: Setting, cells: Sequence[Cell], jobs: int, progress: Progress
) -> dict[str, str]:
    """Runs all cells, lenders of weights before those that take them; returns the failures."""
    failures: dict[str, str] = {}
    runs = [CellRun(setting, cell) for cell in cells]
    lenders = [run for run in runs if run.cell.lender is None]
    takers = [run for run in runs if run.cell.lender is not None]
    for wave in (lenders, takers):
        failures |= _work(wave, jobs, "cells", progress)
    return failures


class _Piece(Protocol):
    def work(self) -> None: ...


def _work(pieces: Sequence[_Piece], jobs: int, title: str, progress: Progress) -> dict[str, str]:
    """Works through pieces; returns piece -> the sentence in which it failed."""
    failures: dict[str, str] = {}
    if not pieces:
        return failures
    with progress.task(title, len(pieces), unit="run") as bar:
        for piece, problem in work_through(pieces, _do, jobs):
            if problem is not None:
                failures[str(piece)] = problem
                progress.say(f"{piece}: {problem}")
            bar.advance()
    return failures


def _do(piece: _Piece) -> None:
    piece.work()


def _measure(runs: Sequence[RunDir], options: BenchOptions, compute: Compute) -> None:
    """Measures what has not been measured this way, one network after the other.

    Each is measured beside one and the same full network.
    """
    if not runs:
        return
    full = _full_network(runs, compute)
    asked = {**options.to_json(), "full": digest_file(full)}
    waiting = [run for run in runs if not run.is_current(LATENCY, asked)]
    with compute.progress.task("latency", len(waiting), unit="run") as bar:
        for run in waiting:
            with run.stage(LATENCY, ["model.onnx"], [LATENCY_FILE]) as figures:
                figures["asked"] = asked
                files, record = (full, run.file("model.onnx")), run.file(LATENCY_FILE)
                api.bench(*files, save=record, options=options)
            bar.advance()


def _full_network(runs: Sequence[RunDir], compute: Compute) -> Path:
    """Returns the full network's ONNX file: one that lies there, or that of the first run."""
    for run in runs:
        if run.file(ORIGINAL).exists():
            return run.file(ORIGINAL)
    api.export(runs[0].path, compute=compute)
    return runs[0].file(ORIGINAL)


def _request(
    model: str,
    asked: CompareOptions,
    shared: RunOptions,
    target: Mapping[str, Any] | None,
    measured: BenchOptions,
) -> dict[str, Any]:
    compared = {name: getattr(asked, name) for name in ("methods", "seeds", "weights")}
    timed = {"table": asked.table and str(asked.table), "target": dict(target or {})}
    settings = {k: v for k, v in recorded(shared).items() if k not in _OF_CELLS}
    given = {**asked.texts(), **(timed if asked.latency else {}), **settings}
    return {
        "model": model,
        **compared,
        **{name: value for name, value in given.items() if value is not None},
        "bench": measured.to_json(),
    }
