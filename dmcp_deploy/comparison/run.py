"""Runs every cell of a comparison, then measures and gathers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from dmcp_deploy.artifact import digest_file, write_text
from dmcp_deploy.comparison.cells import Cell, Entry, all_cells, parse_entries
from dmcp_deploy.comparison.page import page
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
from dmcp_deploy.options.run import Budgets, Compute, RunOptions
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.registry import NETWORK_RUNTIMES
from dmcp_deploy.run import api
from dmcp_deploy.run.artifacts import check_runtime
from dmcp_deploy.run.budgets import check_budgets, parse_budgets
from dmcp_deploy.run.context import RunContext
from dmcp_deploy.run.problem import search_problem
from dmcp_deploy.run.rehearsal import rehearse
from dmcp_deploy.run.resolve import make_request
from dmcp_deploy.rundir.directory import RunDir, folder_name

_ORIGINAL = "original.onnx"

#: What every cell of a comparison has of its own.
_OF_CELLS = {"method", "weights", "distill", "seed"}


def compare(
    model: str,
    flops: str,
    *,
    options: RunOptions | None = None,
    bench_options: BenchOptions | Mapping[str, Any] | None = None,
    compute: Compute | None = None,
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
        **changes: Fields of `CompareOptions` (methods, seeds, jobs, out, weights, init), and
            those of `RunOptions` that differ from `options`.

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
    return _compare(model, asked, shared, bench_options, compute or Compute())


def _compare(
    model: str,
    asked: CompareOptions,
    shared: RunOptions,
    measured: BenchOptions,
    compute: Compute,
) -> Comparison:
    cells = all_cells(parse_entries(asked.methods), parse_budgets(asked.flops), asked.seeds)
    _check_runtime(measured)
    budgets = [Budgets(text) for text in dict.fromkeys(cell.budget for cell in cells)]
    check_budgets(model, budgets, shared, compute)
    folder = Path(asked.out or Path("runs") / f"compare-{folder_name(model)}")
    if compute.rehearse:
        _rehearse(folder, model, cells, shared, compute)
    quiet = compute if asked.jobs == 1 else replace(compute, progress=NO_PROGRESS)
    quiet = replace(quiet, rehearse=False)
    setting = _Setting(folder, model, shared, asked.weights == TRAINED, quiet)

    full = range(asked.seeds) if setting.trains_full else ()
    trainings = [_Full(setting, seed) for seed in full]
    failed = _work(trainings, asked.jobs, "full networks", compute.progress)
    for problem in failed.values():
        raise DmcpError(problem)
    failures = _work([_Run(setting, c) for c in cells], asked.jobs, "cells", compute.progress)
    done = [cell for cell in cells if str(cell) not in failures]
    _measure([folder / cell.folder for cell in done], measured, compute)
    comparison = Comparison(
        request=_request(model, asked, shared, measured),
        environment=read_environment(),
        full=tuple(read_full(seed, setting.full(seed)) for seed in full),
        results=tuple(read_cell(cell, folder / cell.folder) for cell in done),
        failures=failures,
    )
    comparison.save(folder / "compare.json")
    write_text(folder / "compare.html", page(comparison))
    return comparison


def _rehearse(
    folder: Path, model: str, cells: Sequence[Cell], shared: RunOptions, compute: Compute
) -> None:
    """Tries the whole chain of every method that has not begun, at its first budget and seed.

    Raises:
        DmcpError: A part of a chain fails.
    """
    first: dict[Entry, Cell] = {}
    for cell in cells:
        first.setdefault(cell.entry, cell)
    quiet = replace(compute, progress=NO_PROGRESS)
    for entry, cell in first.items():
        if (folder / cell.folder).exists():
            continue
        options = replace(shared, method=entry.method, distill=entry.distill, seed=cell.seed)
        request = make_request(model, Budgets(cell.budget), options, quiet)
        context = RunContext(RunDir(folder / cell.folder), request, compute)
        rehearse(context, search_problem(context))


@dataclass(frozen=True)
class _Setting:
    """What all cells share."""

    folder: Path
    model: str
    options: RunOptions
    trains_full: bool
    compute: Compute

    def full(self, seed: int) -> Path:
        return self.folder / f"full-seed{seed}"

    def weights(self, seed: int) -> str | None:
        if not self.trains_full:
            return self.options.weights
        return str(self.full(seed) / "dense.safetensors")


@dataclass(frozen=True)
class _Full:
    """The training of a full network: a run whose plan keeps all."""

    setting: _Setting
    seed: int

    def __str__(self) -> str:
        return f"the full network, seed {self.seed}"

    def work(self) -> None:
        setting, seed = self.setting, self.seed
        out, compute = setting.full(seed), setting.compute
        options = replace(setting.options, method="uniform", align=1, init="scratch", seed=seed)
        api.search(setting.model, "100%", out=out, options=options, compute=compute)
        api.train(out, compute=compute)


@dataclass(frozen=True)
class _Run:
    """One cell."""

    setting: _Setting
    cell: Cell

    def __str__(self) -> str:
        return str(self.cell)

    def work(self) -> None:
        cell, setting = self.cell, self.setting
        out, compute = setting.folder / cell.folder, setting.compute
        options = replace(
            setting.options,
            method=cell.entry.method,
            distill=cell.entry.distill,
            seed=cell.seed,
            weights=setting.weights(cell.seed),
        )
        api.search(setting.model, cell.budget, out=out, options=options, compute=compute)
        for stage in (api.slice, api.train):
            stage(out, compute=compute)
        api.export(out, original=(out / _ORIGINAL).exists(), compute=compute)


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


class _Piece(Protocol):
    def work(self) -> None: ...


def _work(pieces: Sequence[_Piece], jobs: int, title: str, progress: Progress) -> dict[str, str]:
    """Works through pieces; returns piece -> the sentence in which it failed."""
    failures = {}
    with progress.task(title, len(pieces), unit="run") as bar:
        for piece, problem in work_through(pieces, _do, jobs):
            if problem is not None:
                failures[str(piece)] = problem
                progress.say(f"{piece}: {problem}")
            bar.advance()
    return failures


def _do(piece: _Piece) -> None:
    piece.work()


def _measure(folders: Sequence[Path], options: BenchOptions, compute: Compute) -> None:
    """Measures what has not been measured this way, one network after the other.

    Each is measured beside one and the same full network.
    """
    if not folders:
        return
    full = _full_network(folders, compute)
    asked = {**options.to_json(), "full": digest_file(full)}
    waiting = [f for f in folders if not RunDir(f).is_current(LATENCY, asked)]
    with compute.progress.task("latency", len(waiting), unit="run") as bar:
        for run in map(RunDir, waiting):
            with run.stage(LATENCY, ["model.onnx"], [LATENCY_FILE]) as figures:
                figures["asked"] = asked
                files, record = (full, run.file("model.onnx")), run.file(LATENCY_FILE)
                api.bench(*files, save=record, options=options)
            bar.advance()


def _full_network(folders: Sequence[Path], compute: Compute) -> Path:
    """Returns the full network's ONNX file: one that lies there, or that of the first run."""
    for folder in folders:
        if (folder / _ORIGINAL).exists():
            return folder / _ORIGINAL
    api.export(folders[0], compute=compute)
    return folders[0] / _ORIGINAL


def _request(
    model: str, asked: CompareOptions, shared: RunOptions, measured: BenchOptions
) -> dict[str, Any]:
    compared = {name: getattr(asked, name) for name in ("flops", "methods", "seeds", "weights")}
    given = {
        name: value
        for name, value in recorded(shared).items()
        if value is not None and name not in _OF_CELLS
    }
    return {"model": model, **compared, **given, "bench": measured.to_json()}
