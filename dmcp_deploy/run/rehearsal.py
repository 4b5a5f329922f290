"""The whole chain on a few pictures, one step of each loop, before the first real step.

What would fail after hours of training fails here, on the same device, in the same arithmetic
and memory order, on the first real pictures at the asked sizes. Nothing that it writes lasts.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dmcp_deploy.data.holdout import spread
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.export.precisions import UNRUNNABLE, Evidence, precision_path, rewrite
from dmcp_deploy.export.quantize import FEWEST_IMAGES
from dmcp_deploy.options.export import ExportOptions
from dmcp_deploy.plan import ChannelPlan, Keep
from dmcp_deploy.progress import NO_PROGRESS
from dmcp_deploy.run import stages
from dmcp_deploy.run.context import RunContext
from dmcp_deploy.run.engines import EngineRequest, engines_of_file
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.runtimes.onnxruntime import OnnxSession
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.run import make_plan
from dmcp_deploy.training.distributed import is_main, text_from_first, wait_for_all, world_size
from dmcp_deploy.training.recipe import Schedule, recipe_to_json

#: Images of a step on a CPU; a GPU takes the asked number, since memory runs out there.
_CPU_BATCH = 4

#: Of the learning rates: running statistics are far behind after a single step.
_SLOWED = 1e-3

#: Roundings grow a thousandfold on their way through a deep network that is not trained.
_ONNX_TOLERANCE = 0.5

_TRAINING_IMAGES = 40
_VALIDATION_IMAGES = 8


#: What is done with a small run once its network is exported.
Branch = Callable[[RunContext], object]


@dataclass(frozen=True)
class Phase:
    """One part of a rehearsal.

    Attributes:
        name: What was tried: "search", "slice", "train", "export", or a branch behind it.
        seconds: How long it took.
        fault: The sentence with which it failed; None where it did not.
    """

    name: str
    seconds: float
    fault: str | None = None


def rehearse(
    context: RunContext, problem: SearchProblem, engines: EngineRequest | None = None
) -> list[Phase]:
    """Tries the whole chain of a run; returns its parts.

    Args:
        context: The run.
        problem: Its search, which stays as it is.
        engines: The engines that are asked for.

    Raises:
        DmcpError: A part of the chain fails.
    """
    branches = {} if engines is None else {"engines": partial(build, engines)}
    phases = []
    with closing(phases_of(context, problem, branches)) as tried:
        for phase in tried:
            if phase.fault is not None:
                raise DmcpError(phase.fault)
            phases.append(phase)
    parts = ", ".join(f"{phase.name} {phase.seconds:.1f} s" for phase in phases)
    context.compute.progress.say(
        f"Rehearsal of the whole chain ({context.request.method}): {parts}"
    )
    return phases


def phases_of(
    context: RunContext, problem: SearchProblem, branches: Mapping[str, Branch]
) -> Generator[Phase, None, None]:
    """Yields each part of the chain once it is tried, up to the first that fails; then branches.

    Args:
        context: The run.
        problem: Its search, which stays as it is.
        branches: What is tried with the exported network, by name.
    """
    with tempfile.TemporaryDirectory(prefix="dmcp-deploy-", dir=_place(context)) as folder:
        small = _small(context, Path(text_from_first(folder)) / "run")
        chain: dict[str, Branch] = {
            "search": partial(_search, problem),
            "slice": stages.run_slice,
            "train": stages.run_train,
            "export": _export,
        }
        for name, work in chain.items():
            phase = _tried(name, work, small, context)
            yield phase
            if phase.fault is not None:
                return
        for name, work in branches.items() if is_main() else ():
            yield _tried(name, work, small, context)
        wait_for_all()


def build(engines: EngineRequest, small: RunContext) -> None:
    """Converts the exported network to what is asked for, and builds the engines, quickly."""
    builds = tuple(replace(build, optimization_level=0) for build in engines.builds)
    for precision in engines.precisions:
        request = EngineRequest((precision,), builds)
        engines_of_file(convert_to(precision, small), None, request, None, NO_PROGRESS)


def convert_to(precision: str, small: RunContext) -> Path:
    """Converts the exported network to a precision, and runs it where ONNX Runtime can.

    Its logits are not judged: those of an untrained network overflow where a trained one's do not.
    """
    source = small.run.file("model.onnx")
    path = precision_path(source, small.run.path, precision)
    evidence = Evidence(small.data.calibration_images(FEWEST_IMAGES).numpy())
    if path != source:
        rewrite(source, path, precision, evidence)
    if precision not in UNRUNNABLE:
        with OnnxSession(path) as session:
            session.run(evidence.calibration)
    return path


def _small(context: RunContext, folder: Path) -> RunContext:
    """Returns the run with one step of each loop on a few pictures, in another folder."""
    recipe, asked = context.recipe, context.request
    on_cpu = context.precision.device.type == "cpu"
    sizes = [
        min(schedule.batch_size, _CPU_BATCH) if on_cpu else schedule.batch_size
        for schedule in (recipe.search, recipe.train)
    ]
    recipe = replace(
        recipe,
        search=replace(_slowed(recipe.search), batch_size=sizes[0]),
        train=replace(_slowed(recipe.train), batch_size=sizes[1]),
        recalibration_batches=1,
    )
    count = max(_TRAINING_IMAGES, 2 * max(sizes) * world_size())
    compute = replace(
        context.compute,
        workers=0,
        tensorboard=False,
        supernet=None,
        rehearse=False,
        progress=NO_PROGRESS,
    )
    request = replace(asked, max_steps=1, recipe=recipe_to_json(recipe))
    images = spread(context.data.images, count, _VALIDATION_IMAGES)
    return RunContext(RunDir(folder), request, compute, images, _ONNX_TOLERANCE)


def _slowed(schedule: Schedule) -> Schedule:
    """Returns a schedule whose one step does not throw a network that no norm has followed yet."""
    rates = {name: getattr(schedule, name) * _SLOWED for name in ("lr_start", "lr", "lr_end")}
    return replace(schedule, **rates)


def _search(problem: SearchProblem, small: RunContext) -> None:
    search = stages.prepare_search(small)
    assert search is not None
    stages.run_search(small, search)
    keeps = small.plan().groups.values()
    if is_main() and not any(isinstance(keep.kept, tuple) for keep in keeps):
        _mixed_plan(problem, small.request).save(small.run.file("plan.json"))
    wait_for_all()


def _mixed_plan(problem: SearchProblem, request: RunRequest) -> ChannelPlan:
    """Returns a plan of random widths: one step of a search leaves all groups about as wide."""
    generator = torch.Generator().manual_seed(request.seed)
    units = problem.grid.nearest(problem.space.random_units(generator).astype(np.float64))
    widths: dict[str, int | Keep] = dict(problem.space.widths(units))
    return make_plan(problem, widths, request.method, request.align)


def _export(small: RunContext) -> None:
    options = ExportOptions()
    stages.run_export(small, options.batch, options.opset, original=False)


def _place(context: RunContext) -> Path | None:
    """Returns where the folder lies: several processes need one that all of them see."""
    if world_size() == 1:
        return None
    return next(path for path in context.run.path.absolute().parents if path.is_dir())


def _tried(name: str, work: Branch, small: RunContext, context: RunContext) -> Phase:
    started, fault = time.perf_counter(), None
    try:
        work(small)
    except DmcpError as err:
        fault = str(err).replace(str(small.run.path), str(context.run.path))
    except Exception as err:
        # The user's network may raise anything, in any part of the chain.
        fault = _foreign(name, small.request, err)
    return Phase(name, time.perf_counter() - started, fault)


def _foreign(name: str, request: RunRequest, err: Exception) -> str:
    """Returns what an error out of a network's own code says, and where it was raised."""
    frames = traceback.extract_tb(err.__traceback__)
    theirs = [f for f in frames if "site-packages" not in f.filename and _PACKAGE not in f.filename]
    place = f", at {Path(theirs[-1].filename).name}:{theirs[-1].lineno}" if theirs else ""
    remedy = "mend the network before it is trained"
    if isinstance(err, torch.OutOfMemoryError):
        remedy = "take a smaller --batch-size"
    elif not theirs:
        remedy = "if the network is sound, report it; --no-rehearse goes on all the same"
    return (
        f"{request.network.model} fails in the first step of {name}"
        f" ({type(err).__name__}: {reason_of(err)}{place}): {remedy}."
    )


_PACKAGE = str(Path(__file__).parents[1])
