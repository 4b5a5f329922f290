"""Run directory -> what a report tells of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from dmcp_deploy.artifact import (
    LATER,
    MisstatedError,
    decode,
    digest_file,
    read_artifact,
    well_formed,
)
from dmcp_deploy.bench.certificate import FILE, Certificate
from dmcp_deploy.bench.layers.record import LayersRecord
from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.report.facts import Accuracy, Forms, Judged, Lack, Parity, RunFacts, Search
from dmcp_deploy.report.reproduce import run_command, run_commands
from dmcp_deploy.rundir.directory import KEPT, KIND, RunDir, StageRecord
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.rundir.stages import ENGINE, EXPORT, PRECISION, SEARCH, SLICE, TRAIN, Stage
from dmcp_deploy.runtimes.engine_record import EngineRecord

_Artifact = TypeVar("_Artifact")

#: Stage -> its figures.
Figures = Mapping[Stage, Mapping[str, Any]]


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
    with well_formed(str(run.file("run.json"))):
        return _facts(run, name, request, stages)


def accuracies(figures: Figures) -> list[Accuracy]:
    """Returns the accuracies that a run's stages have taken, in the order of the run."""
    places = [
        (Judged.SEARCHED, SEARCH, "full_accuracy"),
        (Judged.SLICED, SLICE, "accuracy"),
        (Judged.TRAINED, TRAIN, "accuracy"),
        (Judged.DEPLOYED, TRAIN, "deployed_accuracy"),
    ]
    taken = ((network, figures.get(stage, {}).get(key)) for network, stage, key in places)
    return [
        Accuracy(
            network,
            float(item["top1"]),
            float(item["loss"]),
            int(item["images"]),
            _size(item["image_size"]),
        )
        for network, item in taken
        if item is not None
    ]


def _size(value: object) -> int | str:
    return value if isinstance(value, str) else int(value)  # type: ignore[call-overload]


def parities(figures: Figures) -> list[Parity]:
    """Returns how far the forms of a run's network are apart, as its stages have found."""
    export = figures.get(EXPORT, {})
    compared: list[tuple[Forms, str | None, Mapping[str, Any]]] = [
        (Forms.SLICED, None, figures.get(SLICE, {})),
        (Forms.PRUNED, None, export.get("model", {})),
        (Forms.ORIGINAL, None, export.get("original", {})),
        *((Forms.CONVERTED, stage.subject, figures[stage]) for stage in _judged(figures)),
    ]
    return [_parity(*forms) for forms in compared if "parity" in forms[-1]]


def _parity(forms: Forms, precision: str | None, figures: Mapping[str, Any]) -> Parity:
    parity, top1, snr = figures["parity"], figures.get("top1"), figures["parity"].get("snr_db")
    return Parity(
        forms,
        precision,
        float(parity["max_abs"]),
        float(parity["max_rel"]),
        float(parity["top1_agreement"]),
        None if snr is None else float(snr),
        None if top1 is None else float(top1),
        None if top1 is None else int(figures["images"]),
    )


def unjudged(figures: Figures) -> dict[str, str]:
    """Returns precision -> why an ONNX file that was converted to it was not judged."""
    return {
        stage.subject: str(figures[stage].get("unchecked", "it was not judged"))
        for stage in _judged(figures)
        if "parity" not in figures[stage]
    }


def _judged(stages: Iterable[Stage]) -> list[Stage]:
    return [stage for stage in stages if stage.kind == PRECISION]


def _facts(
    run: RunDir, name: str, request: RunRequest, stages: Mapping[Stage, StageRecord]
) -> RunFacts:
    figures = {stage: record.figures for stage, record in stages.items()}
    plan = _load_if_there(ChannelPlan.load, run.file("plan.json"))
    engines = tuple(EngineRecord.load(file) for file in _engine_files(run, stages))
    content = read_artifact(run.file("run.json"), KIND)
    steps = _read_steps(run.file("metrics/search.jsonl"))
    return RunFacts(
        name=name,
        path=run.path,
        request=request,
        versions=decode(dict[str, str], content.get("versions"), "versions"),
        stage_seconds={stage: item.seconds for stage, item in stages.items()},
        fed=run.input(),
        plan=plan,
        search=_search(figures[SEARCH], plan, steps) if SEARCH in figures else None,
        search_steps=steps,
        train_steps=_read_steps(run.file("metrics/train.jsonl")),
        accuracies=tuple(accuracies(figures)),
        majority_share=decode(_OfTraining, figures.get(TRAIN, {})).majority_share,
        parities=tuple(parities(figures)),
        unjudged=unjudged(figures),
        bench=_load_if_there(BenchRecord.load, run.file("bench.json")),
        certificate=_load_if_there(Certificate.load, run.file(FILE)),
        layers=_load_if_there(LayersRecord.load, run.file("layers.json")),
        engines=engines,
        commands=run_commands(_placed(run, request), run.path, figures, engines),
        lacks=_lacks(run, request, stages, engines),
        stale=tuple(stage for stage, item in stages.items() if _is_stale(run, item.inputs)),
    )


def _placed(run: RunDir, request: RunRequest) -> RunRequest:
    """Returns a request with the place where the data was found last."""
    return replace(request, data=run.data_place() or request.data)


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


def _load_if_there(load: Callable[[Path], _Artifact], path: Path) -> _Artifact | None:
    return load(path) if path.exists() else None


def _engine_files(run: RunDir, stages: Mapping[Stage, Any]) -> list[Path]:
    """Returns the engines of a run that lie here; a copy of a run may have come without."""
    files = [run.file(stage.subject) for stage in stages if stage.kind == ENGINE]
    return [file for file in files if file.exists()]


def _search(
    figures: Mapping[str, Any], plan: ChannelPlan | None, steps: Sequence[Mapping[str, Any]]
) -> Search:
    recorded = decode(_OfSearch, figures, "search")
    rows, expected = recorded.probabilities, recorded.expected_macs
    names = _row_names(rows, plan) if recorded.groups is None else recorded.groups
    if len(names) != len(rows):
        raise ValueError(f"{len(rows)} rows of probabilities for {len(names)} groups")
    with_shares = [step for step in steps if any(name.startswith(KEPT) for name in step)]
    groups = [name for step in with_shares[:1] for name in step if name.startswith(KEPT)]
    return Search(
        None if expected is None else int(expected),
        rows,
        names,
        tuple(int(step["step"]) for step in with_shares),
        {
            name.removeprefix(KEPT): tuple(float(step[name]) for step in with_shares)
            for name in groups
        },
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


#: Part of the report -> what a run without it lacks, and what makes it.
_LACKING = {
    "plan": ("There is no channel plan yet.", "search"),
    "search": ("The search has not come to its end.", "search"),
    "slice": ("The network is not sliced yet.", "slice"),
    "train": ("The pruned network is not trained to the end yet.", "train"),
    "export": ("Nothing is exported to ONNX yet.", "export"),
    "bench": ("No latency is measured yet.", "bench"),
    "layers": ("The layers' times are not measured yet.", "bench --layers"),
    "precisions": ("No lower precision is judged yet.", "export --precision fp32,fp16,bf16,int8"),
    "engines": ("No engine is built yet.", "engine --precision fp16"),
}


def _lacks(
    run: RunDir, request: RunRequest, stages: Mapping[Stage, Any], engines: Sequence[EngineRecord]
) -> dict[str, Lack]:
    """Returns part of the report -> what it lacks, and the command that makes it."""
    there: set[str] = {stage for stage in (SEARCH, SLICE, TRAIN, EXPORT) if stage in stages}
    there |= {part for part in ("plan", "bench", "layers") if run.file(f"{part}.json").exists()}
    there |= {"precisions"} if _judged(stages) else set()
    there |= {"engines"} if engines else set()
    lacks = {}
    for part, (what, command) in _LACKING.items():
        if part == "engines" and any(stage.kind == ENGINE for stage in stages):
            what = "The engines are not in this copy of the run."
        made_by = f"dmcp-deploy {command} {shlex.quote(str(run.path))}"
        if command == "search":
            made_by = run_command(command, request, run.path)
        if part not in there:
            lacks[part] = Lack(what, made_by)
    return lacks


def _is_stale(run: RunDir, inputs: Mapping[str, str | None]) -> bool:
    """Returns whether a file that a stage read is another one now."""
    files = ((run.file(name), digest) for name, digest in inputs.items())
    return any(file.is_file() and digest_file(file) != digest for file, digest in files)
