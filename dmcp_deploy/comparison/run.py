"""Runs every cell of a comparison, then measures and gathers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from dmcp_deploy.artifact import digest_file, write_text
from dmcp_deploy.comparison.cells import (
    Cell,
    all_cells,
    check_seeds,
    parse_entries,
)
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
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.registry import NETWORK_RUNTIMES
from dmcp_deploy.run import api
from dmcp_deploy.run.budgets import check_budgets, parse_budgets
from dmcp_deploy.rundir.directory import RunDir, folder_name
from dmcp_deploy.rundir.request import BenchOptions, Compute, RunOptions

#: As `weights`: the full network is trained first, once for every seed.
TRAINED = "trained"

_SECONDS = 4.0
_ORIGINAL = "original.onnx"


def compare(
    model: str,
    flops: str,
    *,
    methods: str = "all",
    seeds: int = 3,
    jobs: int = 1,
    out: Path | str | None = None,
    weights: str | None = TRAINED,
    init: str = "sliced",
    bench_options: Mapping[str, Any] | None = None,
    compute: Compute | None = None,
    **options: Any,
) -> Comparison:
    """Returns how search methods do at equal budgets; continues a comparison that lies there.

    Every cell (method, budget, seed) is a run directory below `out`, made by the same stages as
    `prune`; "compare.json" and "compare.html" are written once all are there. Methods, budgets
    and seeds may be added later.

    Args:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        flops: Budgets such as "25%,10%".
        methods: "all", or names such as "dmcp,autoslim*": a star trains by distillation.
        seeds: How many; they are 0, 1, ...
        jobs: Cells at a time, each in a process of its own if more than 1.
        out: The folder; "runs/compare-MODEL" by default.
        weights: What every search starts from: "trained" trains the full network first, once
            for every seed, by the recipe's training schedule; None, "imagenet" or a file.
        init: What every pruned network starts from: "sliced" or "scratch".
        bench_options: Fields of `BenchOptions`.
        compute: Device, workers, checkpoints, progress.
        **options: Further fields of `RunOptions`, the same for all.

    Raises:
        DmcpError: Something asked for cannot be had; found before any training where it can be.
    """
    require("torch", "torchvision", "safetensors", "PIL", "onnx", "onnxscript", "onnxruntime")
    check_seeds(seeds)
    if jobs < 1:
        raise DmcpError(f"--jobs {jobs} is too small: it must be at least 1.")
    cells = all_cells(parse_entries(methods), parse_budgets(flops), seeds)
    measured = _measurement(bench_options or {})
    compute = compute or Compute()
    folder = Path(out) if out is not None else Path("runs") / f"compare-{folder_name(model)}"
    shared = {**options, "init": init}
    _check(model, cells, {**shared, "weights": None if weights == TRAINED else weights}, compute)
    quiet = compute if jobs == 1 else replace(compute, progress=NO_PROGRESS)
    setting = _Setting(folder, model, shared, weights, quiet)

    full = range(seeds) if weights == TRAINED else ()
    failed = _work([_Full(setting, s) for s in full], jobs, "full networks", compute.progress)
    for problem in failed.values():
        raise DmcpError(problem)
    failures = _work([_Run(setting, c) for c in cells], jobs, "cells", compute.progress)
    done = [cell for cell in cells if str(cell) not in failures]
    _measure([folder / cell.folder for cell in done], measured, compute)
    found = Comparison(
        request=_asked(model, flops, methods, seeds, weights, shared, measured),
        environment=_environment(),
        full=tuple(read_full(seed, setting.full(seed)) for seed in full),
        results=tuple(read_cell(cell, folder / cell.folder) for cell in done),
        failures=failures,
    )
    found.save(folder / "compare.json")
    write_text(folder / "compare.html", page(found))
    return found


@dataclass(frozen=True)
class _Setting:
    """What all cells share."""

    folder: Path
    model: str
    options: Mapping[str, Any]
    weights: str | None
    compute: Compute

    def full(self, seed: int) -> Path:
        return self.folder / f"full-seed{seed}"

    def weights_of(self, seed: int) -> str | None:
        if self.weights != TRAINED:
            return self.weights
        return str(self.full(seed) / "dense.safetensors")


@dataclass(frozen=True)
class _Full:
    """The training of a full network: a run whose plan keeps all."""

    setting: _Setting
    seed: int

    def __str__(self) -> str:
        return f"the full network, seed {self.seed}"

    def work(self) -> None:
        own = {"method": "uniform", "align": 1, "init": "scratch", "seed": self.seed}
        options = {**self.setting.options, **own}
        out, compute = self.setting.full(self.seed), self.setting.compute
        api.search(self.setting.model, "100%", out=out, compute=compute, **options)
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
        own = {
            "method": cell.entry.method,
            "distill": cell.entry.distill,
            "seed": cell.seed,
            "weights": setting.weights_of(cell.seed),
        }
        out, compute = setting.folder / cell.folder, setting.compute
        options = {**setting.options, **own}
        api.search(setting.model, cell.budget, out=out, compute=compute, **options)
        for stage in (api.slice, api.train):
            stage(out, compute=compute)
        api.export(out, original=(out / _ORIGINAL).exists(), compute=compute)


def _measurement(bench_options: Mapping[str, Any]) -> BenchOptions:
    """Returns how networks are measured.

    Raises:
        DmcpError: The runtime is not there, or measures no ONNX files.
    """
    from dmcp_deploy.run.artifacts import check_runtime

    measured = BenchOptions(**{"seconds": _SECONDS, **bench_options})
    check_runtime(measured.runtime)
    if measured.runtime in NETWORK_RUNTIMES:
        raise DmcpError(
            f"--runtime {measured.runtime} measures run directories one by one (bench): compare"
            " measures ONNX files or engines."
        )
    return measured


def _check(model: str, cells: Sequence[Cell], options: Mapping[str, Any], compute: Compute) -> None:
    """Finds what is wrong with network, data, recipe and budgets before hours of training."""
    for method in {cell.entry.method for cell in cells}:
        RunOptions(**{**options, "method": method})
    budgets = list(dict.fromkeys(cell.budget for cell in cells))
    check_budgets(model, budgets, options, compute)


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
                api.bench(*files, save=record, **vars(options))
            bar.advance()


def _full_network(folders: Sequence[Path], compute: Compute) -> Path:
    """Returns the full network's ONNX file: one that lies there, or that of the first run."""
    for folder in folders:
        if (folder / _ORIGINAL).exists():
            return folder / _ORIGINAL
    api.export(folders[0], compute=compute)
    return folders[0] / _ORIGINAL


def _asked(
    model: str,
    flops: str,
    methods: str,
    seeds: int,
    weights: str | None,
    shared: Mapping[str, Any],
    measured: BenchOptions,
) -> dict[str, Any]:
    given = {key: value for key, value in shared.items() if value is not None}
    return {
        "model": model,
        "flops": flops,
        "methods": methods,
        "seeds": seeds,
        "weights": weights,
        **given,
        "bench": measured.to_json(),
    }


def _environment() -> dict[str, Any]:
    from dmcp_deploy.machine.environment import read_environment

    return read_environment()
