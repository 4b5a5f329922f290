"""Run directory -> what a report tells of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import (
    LATER,
    MisstatedError,
    decode,
    digest_file,
    read_artifact,
    well_formed,
)
from dmcp_deploy.bench.layers.record import LayersRecord
from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.report.facts import TRAINED, Accuracy, Lack, Parity, RunFacts, Search
from dmcp_deploy.report.reproduce import run_command, run_commands
from dmcp_deploy.rundir.directory import KEPT, KIND, RunDir
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.rundir.stages import ENGINE, EXPORT, PRECISION, SEARCH, SLICE, TRAIN, Stage
from dmcp_deploy.runtimes.engine_record import EngineRecord


def gather_all(folders: Sequence[Path]) -> list[RunFacts]:
    """Returns what there is to tell of several runs, each under a name of its own.

    Raises:
        DmcpError: A folder holds no run or a damaged file, or is given twice.
    """
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise DmcpError(f"The run {folder} is given twice: name each run once.")
    short = [place.name for place in places]
    unique = len(set(short)) == len(short)
    names = short if unique else [str(place) for place in places]
    return [gather(folder, name) for folder, name in zip(folders, names, strict=True)]


def gather(folder: Path, name: str) -> RunFacts:
    """Returns what there is to tell of a run.

    Raises:
        DmcpError: The folder holds no run, or one of its files is damaged.
    """
    run = RunDir(folder)
    request, stages = run.request(), run.stages()
    plan, bench, layers = (run.file(each) for each in ("plan.json", "bench.json", "layers.json"))
    channel_plan = ChannelPlan.load(plan) if plan.exists() else None
    latencies = BenchRecord.load(bench) if bench.exists() else None
    profiled = LayersRecord.load(layers) if layers.exists() else None
    engines = tuple(EngineRecord.load(file) for file in _engine_files(run, stages))
    search_steps, train_steps = (
        _read_steps(run.file(f"metrics/{stage}.jsonl")) for stage in ("search", "train")
    )
    content = read_artifact(run.file("run.json"), KIND)
    figures = {stage: record.figures for stage, record in stages.items()}
    with well_formed(str(run.file("run.json"))):
        return RunFacts(
            name=name,
            path=run.path,
            request=request,
            versions=decode(dict[str, str], content.get("versions"), "versions"),
            stage_seconds={stage: record.seconds for stage, record in stages.items()},
            plan=channel_plan,
            search=_search(figures[SEARCH], channel_plan, search_steps)
            if SEARCH in figures
            else None,
            search_steps=search_steps,
            train_steps=train_steps,
            accuracies=tuple(_accuracies(figures)),
            majority_share=decode(_OfTraining, figures.get(TRAIN, {})).majority_share,
            parities=tuple(_parities(figures)),
            unjudged=_unjudged(figures),
            bench=latencies,
            layers=profiled,
            engines=engines,
            commands=run_commands(request, run.path, figures, engines),
            lacks=_lacks(run, request, stages, engines),
            stale=tuple(stage for stage, item in stages.items() if _is_stale(run, item.inputs)),
        )


@dataclass(frozen=True)
class _OfSearch:
    """What a search's figures tell; each method has some of them."""

    expected_macs: float | None = field(default=None, metadata=LATER)
    probabilities: tuple[tuple[float, ...], ...] = field(default=(), metadata=LATER)
    groups: tuple[str, ...] | None = field(default=None, metadata=LATER)


@dataclass(frozen=True)
class _OfTraining:
    """What a training's figures tell."""

    majority_share: float | None = field(default=None, metadata=LATER)


def _engine_files(run: RunDir, stages: Mapping[Stage, Any]) -> list[Path]:
    """Returns the engines of a run that lie here; a copy of a run may have come without."""
    files = [run.file(stage.subject) for stage in stages if stage.kind == ENGINE]
    return [file for file in files if file.exists()]


def _search(
    figures: Mapping[str, Any], plan: ChannelPlan | None, steps: Sequence[Mapping[str, Any]]
) -> Search:
    found = decode(_OfSearch, figures, "search")
    rows, expected = found.probabilities, found.expected_macs
    names = _row_names(rows, plan) if found.groups is None else found.groups
    if len(names) != len(rows):
        raise ValueError(f"{len(rows)} rows of probabilities for {len(names)} groups")
    told = [step for step in steps if any(name.startswith(KEPT) for name in step)]
    groups = [name for name in (told[0] if told else {}) if name.startswith(KEPT)]
    return Search(
        None if expected is None else int(expected),
        rows,
        names,
        tuple(int(step["step"]) for step in told),
        {name.removeprefix(KEPT): tuple(float(step[name]) for step in told) for name in groups},
    )


def _row_names(rows: Sequence[Sequence[float]], plan: ChannelPlan | None) -> tuple[str, ...]:
    """Returns the groups the rows belong to, for a record that does not name them."""
    if plan is not None and len(plan.groups) == len(rows):
        return tuple(plan.groups)
    return tuple(f"searched group {number}" for number in range(1, len(rows) + 1))


def _read_steps(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Returns the reports of a metrics file; a last line cut off by a kill is passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, ValueError) as err:
        raise DmcpError(f"Cannot read the metrics {path}: {err}.") from err
    return tuple(
        step for number, line in enumerate(lines, 1) if (step := _step(path, number, line))
    )


def _step(path: Path, number: int, line: str) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    try:
        figures = decode(dict[str, int | float], content)
    except MisstatedError as err:
        raise DmcpError(
            f"Line {number} of the metrics {path} does not hold a step's figures: delete that line."
        ) from err
    return figures if "step" in figures else None


def _accuracies(figures: Mapping[Stage, Mapping[str, Any]]) -> list[Accuracy]:
    places = [
        ("full network after the search", SEARCH, "full_accuracy"),
        ("pruned, before its training", SLICE, "accuracy"),
        (TRAINED, TRAIN, "accuracy"),
        (f"{TRAINED}, at the deployed size", TRAIN, "deployed_accuracy"),
    ]
    found = ((what, figures.get(stage, {}).get(key)) for what, stage, key in places)
    return [
        decode(Accuracy, {**item, "what": what}, what) for what, item in found if item is not None
    ]


def _parities(figures: Mapping[Stage, Mapping[str, Any]]) -> list[Parity]:
    export = figures.get(EXPORT, {})
    found = [
        ("sliced network and supernet at its widths", figures.get(SLICE, {})),
        ("pruned ONNX file and torch", export.get("model", {})),
        ("original ONNX file and torch", export.get("original", {})),
        *((f"{stage.subject} ONNX file and torch", figures[stage]) for stage in _judged(figures)),
    ]
    return [_parity(what, item) for what, item in found if "parity" in item]


def _parity(what: str, figures: Mapping[str, Any]) -> Parity:
    return decode(Parity, {**figures, **figures["parity"], "what": what}, what)


def _unjudged(figures: Mapping[Stage, Mapping[str, Any]]) -> dict[str, str]:
    return {
        stage.subject: str(figures[stage].get("unchecked", "it was not judged"))
        for stage in _judged(figures)
        if "parity" not in figures[stage]
    }


def _judged(stages: Iterable[Stage]) -> list[Stage]:
    return [stage for stage in stages if stage.kind == PRECISION]


def _lacks(
    run: RunDir, request: RunRequest, stages: Mapping[Stage, Any], engines: Sequence[EngineRecord]
) -> dict[str, Lack]:
    """Returns part of the report -> what it lacks, and the command that makes it."""
    search = run_command("search", request, run.path)
    built = any(stage.kind == ENGINE for stage in stages)
    table: list[tuple[str, bool, str, str]] = [
        ("plan", run.file("plan.json").exists(), "There is no channel plan yet.", search),
        ("search", SEARCH in stages, "The search has not come to its end.", search),
        ("slice", SLICE in stages, "The network is not sliced yet.", "slice"),
        ("train", TRAIN in stages, "The pruned network is not trained to the end yet.", "train"),
        ("export", EXPORT in stages, "Nothing is exported to ONNX yet.", "export"),
        ("bench", run.file("bench.json").exists(), "No latency is measured yet.", "bench"),
        (
            "layers",
            run.file("layers.json").exists(),
            "The layers' times are not measured yet.",
            "bench --layers",
        ),
        (
            "precisions",
            bool(_judged(stages)),
            "No lower precision is judged yet.",
            "export --precision fp32,fp16,bf16,int8",
        ),
        (
            "engines",
            bool(engines),
            "The engines are not in this copy of the run." if built else "No engine is built yet.",
            "engine --precision fp16",
        ),
    ]
    place = shlex.quote(str(run.path))
    return {
        part: Lack(what, made if made is search else f"dmcp-deploy {made} {place}")
        for part, there, what, made in table
        if not there
    }


def _is_stale(run: RunDir, inputs: Mapping[str, str | None]) -> bool:
    """Returns whether a file that a stage read is another one now."""
    files = ((run.file(name), digest) for name, digest in inputs.items())
    return any(file.is_file() and digest_file(file) != digest for file, digest in files)
