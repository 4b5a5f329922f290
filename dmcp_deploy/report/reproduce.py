"""The commands that make a run again, from what it records of itself."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmcp_deploy.options.declare import words
from dmcp_deploy.options.export import DEFAULT_OPSET, BuildOptions, ExportOptions
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.options.network import input_words
from dmcp_deploy.options.run import RunOptions, Target
from dmcp_deploy.rundir.files import TABLE
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.rundir.stages import BENCH, EXPORT, PRECISION, Stage
from dmcp_deploy.runtimes.engine_record import EngineRecord

_RECIPE = "recipe.json"

#: How a `prune` is measured that is told no runtime.
_BENCH_OF_PRUNE = ("batches", "threads", "seconds", "alone")


def recipe_file(request: RunRequest) -> str:
    """Returns the text of the recipe file that `run_command` names."""
    return json.dumps(dict(request.recipe), indent=2)


def run_command(command: str, request: RunRequest, folder: Path, *more: str) -> str:
    """Returns a `prune` or `search` that asks for the same run, recipe file included."""
    spec = request.network
    sizes = {"width_mult": spec.width_mult, **input_words(spec.input_shape)}
    target = words(
        Target, {"model": spec.model, "flops": request.budget, **_timed(request, folder)}
    )
    asked = words(RunOptions, {**vars(request), **sizes, "recipe": _RECIPE})
    return _line(command, *target, *asked, *more, *words(Target, {"out": folder}))


def run_commands(
    request: RunRequest,
    folder: Path,
    figures: Mapping[Stage, Mapping[str, Any]],
    engines: Sequence[EngineRecord],
) -> tuple[str, ...]:
    """Returns the commands that make a run and what was added to it, in order.

    Args:
        request: What was asked of the run.
        folder: Its directory.
        figures: Stage -> its figures.
        engines: The engines that were built.
    """
    asked = figures.get(BENCH, {}).get("asked", {})
    # Of a target, what is left out is the table's.
    told = asked if request.latency is None else _changed(asked)
    bench = words(BenchOptions, {key: told.get(key) for key in _BENCH_OF_PRUNE})
    lines = [run_command("prune", request, folder, *bench), *_export(folder, figures)]
    lines += [_engine(folder, like) for like in _alike(engines)]
    if asked.get("runtime", "onnxruntime") != "onnxruntime":
        lines.append(_line("bench", *words(BenchOptions, asked), str(folder)))
    return tuple(lines)


def _changed(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those options of a measurement that are not at their defaults."""
    usual = BenchOptions().to_json()
    return {name: value for name, value in asked.items() if value != usual.get(name)}


def _timed(request: RunRequest, folder: Path) -> dict[str, Any]:
    """Returns the other budgets, and the table that one in time is read from."""
    table = None if request.latency is None else str(folder / TABLE)
    names = ("latency", "params", "weight_bytes")
    asked = {name: getattr(request, name) for name in names}
    return {**asked, "latency_precision": request.weight_precision, "table": table}


def _export(folder: Path, figures: Mapping[Stage, Mapping[str, Any]]) -> list[str]:
    """Returns the export with other options than `prune` has, where there was one."""
    asked = figures.get(EXPORT, {}).get("asked", {})
    judged = {stage: told for stage, told in figures.items() if stage.kind == PRECISION}
    images = [told.get("asked", {}).get("calibration") for told in judged.values()]
    methods = [told.get("asked", {}).get("calibration_method") for told in judged.values()]
    counts = [count for count in images if count is not None]
    opset = asked.get("opset", DEFAULT_OPSET)
    values = {
        "batch": asked.get("batch"),
        "opset": None if opset == DEFAULT_OPSET else opset,
        "precisions": tuple(stage.subject for stage in judged),
        "calibration": counts[0] if counts else None,
        "calibration_method": next(filter(None, methods), None),
    }
    options = words(ExportOptions, values)
    return [_line("export", *options, str(folder))] if options else []


def _alike(engines: Sequence[EngineRecord]) -> list[list[EngineRecord]]:
    """Returns engines in groups that one command builds."""
    groups: dict[object, list[EngineRecord]] = {}
    for item in engines:
        options = json.dumps(dict(item.options), sort_keys=True)
        batches = item.batches if _is_dynamic(item) else None
        groups.setdefault((item.runtime, item.targets, batches, options), []).append(item)
    return list(groups.values())


def _engine(folder: Path, engines: Sequence[EngineRecord]) -> str:
    first = engines[0]
    dynamic = _is_dynamic(first)
    values = {
        "runtime": first.runtime,
        "precisions": tuple(dict.fromkeys(item.precision for item in engines)),
        "batches": () if dynamic else tuple(dict.fromkeys(item.batches[1] for item in engines)),
        "dynamic_batch": first.batches if dynamic else None,
        "gpu_archs": tuple(first.targets),
        "dla": first.options.get("dla"),
        "optimization_level": first.options.get("optimization_level"),
    }
    return _line("engine", *words(BuildOptions, values), str(folder))


def _is_dynamic(item: EngineRecord) -> bool:
    return item.batches[0] != item.batches[2]


def _line(*given: str) -> str:
    return shlex.join(["dmcp-deploy", *given])
