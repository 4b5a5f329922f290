"""The commands that make a run again, from what it records of itself."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.rundir.stages import BENCH, EXPORT, PRECISION, Stage
from dmcp_deploy.runtimes.engine_record import EngineRecord

_RECIPE = "recipe.json"


def recipe_file(request: RunRequest) -> str:
    """Returns the text of the recipe file that `run_command` names."""
    return json.dumps(dict(request.recipe), indent=2)


def run_command(command: str, request: RunRequest, folder: Path, *words: str) -> str:
    """Returns a `prune` or `search` that asks for the same run, recipe file included."""
    spec = request.network
    options: dict[str, object] = {
        "model": spec.model,
        "flops": request.budget,
        "data": request.data,
        "recipe": _RECIPE,
        "width-mult": _unless(spec.width_mult, 1.0),
        "input-size": _unless(spec.input_shape[-1], 224),
        "method": request.method,
        "sampling": _unless(request.sampling, "expected"),
        "align": request.align,
        "weights": request.weights,
        "init": _unless(request.init, "scratch"),
        "precision": request.precision,
        "seed": request.seed,
        "max-steps": request.max_steps,
    }
    flags = ["--distill"] if request.distill else []
    return _line(command, options, *flags, *words, "--out", str(folder))


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
    bench = _bench_words(asked)
    lines = [run_command("prune", request, folder, *bench), *_export(folder, figures)]
    lines += [_engine(folder, like) for like in _alike(engines)]
    if asked.get("runtime", "onnxruntime") != "onnxruntime":
        lines.append(_line("bench", {"runtime": asked["runtime"]}, *bench, str(folder)))
    return tuple(lines)


def _bench_words(asked: Mapping[str, Any]) -> list[str]:
    if not asked:
        return []
    batches = ",".join(map(str, asked["batches"]))
    return [
        *("--batch", batches, "--threads", str(asked["threads"])),
        *("--seconds", f"{asked['seconds']:g}"),
    ]


def _export(folder: Path, figures: Mapping[Stage, Mapping[str, Any]]) -> list[str]:
    """Returns the export with other options than `prune` has, where there was one."""
    asked = figures.get(EXPORT, {}).get("asked", {})
    judged = {stage: told for stage, told in figures.items() if stage.kind == PRECISION}
    images = [told.get("asked", {}).get("calibration") for told in judged.values()]
    counts = [count for count in images if count is not None]
    options = {
        "batch": asked.get("batch"),
        "opset": _unless(asked.get("opset", 20), 20),
        "precision": ",".join(stage.subject for stage in judged) or None,
        "calibration": counts[0] if counts else None,
    }
    return [_line("export", options, str(folder))] if any(options.values()) else []


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
    sizes = ",".join(dict.fromkeys(str(item.batches[1]) for item in engines))
    dynamic = _is_dynamic(first)
    options = {
        "runtime": first.runtime,
        "precision": ",".join(dict.fromkeys(item.precision for item in engines)),
        "batch": None if dynamic else sizes,
        "dynamic-batch": ",".join(map(str, first.batches)) if dynamic else None,
        "gpu-arch": ",".join(first.targets) or None,
        "dla": first.options.get("dla"),
        "optimization-level": first.options.get("optimization_level"),
    }
    return _line("engine", options, str(folder))


def _is_dynamic(item: EngineRecord) -> bool:
    return item.batches[0] != item.batches[2]


def _line(command: str, options: Mapping[str, object], *words: str) -> str:
    given = [w for k, v in options.items() if v is not None for w in (f"--{k}", str(v))]
    return shlex.join(["dmcp-deploy", command, *given, *words])


def _unless(value: object, default: object) -> object:
    return None if value == default else value
