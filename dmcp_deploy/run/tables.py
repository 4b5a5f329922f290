"""Latency tables: probe networks made, measured, and what they predict of plans."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmcp_deploy.artifact import check_writable
from dmcp_deploy.bench.tables.draw import draw_plans
from dmcp_deploy.bench.tables.make import make_table
from dmcp_deploy.bench.tables.measure import PASSES, measure_probes
from dmcp_deploy.bench.tables.measure_plans import measure_plans
from dmcp_deploy.bench.tables.model import check_certain, latency_model
from dmcp_deploy.bench.tables.predict import Prediction, Predictor
from dmcp_deploy.bench.tables.probes import FILE, ProbeSet, Widths
from dmcp_deploy.bench.tables.table import LatencyTable, PlanTimes
from dmcp_deploy.bench.tables.template import FILE as TEMPLATE
from dmcp_deploy.bench.tables.template import narrow_onnx, open_template
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.extras import require
from dmcp_deploy.options.declare import check, merged
from dmcp_deploy.options.measure import (
    ENGINE_PLANS,
    FEWEST_PLANS,
    MOST_PLANS,
    PLANS,
    PROBES,
    BenchOptions,
    ProbeOptions,
    Setting,
)
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.progress import Progress
from dmcp_deploy.published.plan_text import find_plan
from dmcp_deploy.registry import ENGINE_RUNTIMES, ONNX_RUNTIMES
from dmcp_deploy.run.artifacts import artifacts_of, check_runtime
from dmcp_deploy.runtimes.profile import check_profiler

if TYPE_CHECKING:
    from dmcp_deploy.bench.artifacts import Artifact


def table_probes(
    model: str,
    out: Path | str,
    *,
    count: int = PROBES,
    options: ProbeOptions | None = None,
    compute: Compute | None = None,
    **changes: Any,
) -> ProbeSet:
    """Writes the probe networks of a model as ONNX files; goes on where a killed call stopped.

    Args:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        out: The folder of the files.
        count: How many networks, the full one included.
        options: Their size, alignment and seed.
        compute: Where to report progress.
        **changes: Fields of `ProbeOptions` that differ from `options`.

    Raises:
        DmcpError: A library is missing, the model is unknown, a number is out of range, or the
            folder holds other probes.
    """
    require("torch", "torchvision", "onnx", "onnxscript")
    from dmcp_deploy.run.probes import make_probes

    asked = merged(ProbeOptions, options, **changes)
    return make_probes(
        NetworkSpec.asked(model, asked, asked.classes),
        Path(out),
        count=count,
        align=asked.align,
        seed=asked.seed,
        progress=(compute or Compute()).progress,
    )


def table_build(
    probes: Path | str,
    out: Path | str,
    *,
    plans: int | None = None,
    near: float | None = None,
    options: Setting | None = None,
    compute: Compute | None = None,
    **changes: Any,
) -> LatencyTable:
    """Measures probe networks and writes their latency table; needs no torch.

    What is measured so far lies beside the table, and the same call goes on from it.

    Args:
        probes: The folder that `table_probes` has written.
        out: The table to write.
        plans: Whole plans that correct the table; None for as many as a few minutes take.
        near: Share of the full network's latency near which half of the plans lie.
        options: How to measure.
        compute: Where to report progress.
        **changes: Fields of `Setting` that differ from `options`.

    Raises:
        DmcpError: The probes or the runtime are not there, or what lies beside the table is of
            another measurement.
    """
    folder, out, progress = Path(probes), Path(out), (compute or Compute()).progress
    setting = merged(Setting, options, **changes)
    check_setting(setting)
    check_plans(plans, near)
    known = ProbeSet.load(folder)
    files = known.files(folder)
    check_writable(out, "latency-table")
    artifacts: dict[str, Artifact] = artifacts_of(files, bench_options(setting), progress)
    part, plans_part = out.with_suffix(".part.json"), out.with_suffix(".plans.part.json")
    measured = measure_probes(
        artifacts, known.network.input_shape, setting, part, progress=progress
    )
    table = make_table(known, files, setting, measured)
    if plans != 0 and (folder / TEMPLATE).is_file():
        asked = draw_plans(latency_model(table), plans or _usual_plans(setting), near=near)
        measured_plans = _measure_plans(folder, artifacts, asked, setting, plans_part, progress)
        table = replace(table, plans=measured_plans)
    table.save(out)
    try:
        check_certain(latency_model(table))
    except DmcpError as err:
        progress.say(str(err))
    for path in (part, plans_part):
        path.unlink(missing_ok=True)
    return table


def table_predict(table: Path | str | LatencyTable, *artifacts: Path | str) -> list[Prediction]:
    """Returns what networks take according to a latency table, on its device; needs no torch.

    Args:
        table: The table, or its file.
        *artifacts: Plans, run directories with a plan, and ONNX files.

    Raises:
        DmcpError: A file is absent or damaged, or of another network than the table.
    """
    if not isinstance(table, LatencyTable):
        table = LatencyTable.load(Path(table))
    if not artifacts:
        raise DmcpError("There is nothing to predict: give a plan, a run or an ONNX file.")
    predictor = Predictor(table)
    return [_predict(predictor, Path(artifact)) for artifact in artifacts]


def check_setting(setting: Setting) -> None:
    """Checks how a table is to be measured.

    Raises:
        DmcpError: A value is unknown or out of range, or the runtime is not there.
    """
    check(setting)
    if setting.runtime in ONNX_RUNTIMES and setting.precision != "fp32":
        raise DmcpError(
            f"--precision {setting.precision} is for engines (--runtime"
            f" {' or '.join(ENGINE_RUNTIMES)}): {setting.runtime} runs the probe networks in the"
            " fp32 that they are in."
        )
    check_profiler(setting.runtime)
    check_runtime(setting.runtime, setting.threads)


def bench_options(setting: Setting, **changes: Any) -> BenchOptions:
    """Returns how networks are measured as a table's probes are; other fields may be changed."""
    return BenchOptions(
        batches=(setting.batch,),
        threads=setting.threads,
        runtime=setting.runtime,
        precision=setting.precision if setting.runtime in ENGINE_RUNTIMES else None,
        **changes,
    )


def check_plans(plans: int | None, near: float | None) -> None:
    """Checks which whole plans are to correct a table.

    Raises:
        DmcpError: There are too few or too many, or the share is none.
    """
    if plans is not None and plans and not FEWEST_PLANS <= plans <= MOST_PLANS:
        raise DmcpError(f"--plans {plans} must be 0 or lie in {FEWEST_PLANS}..{MOST_PLANS}.")
    if near is not None and not 0 < near <= 1:
        raise DmcpError(f"--near {near:g} must be a share above 0 and at most 1, as in 0.6.")


def probes_beside(out: Path) -> Path:
    """Returns the folder of the probes that are made for a table."""
    return out.with_name(f"{out.stem}-probes")


def _usual_plans(setting: Setting) -> int:
    return ENGINE_PLANS if setting.runtime in ENGINE_RUNTIMES else PLANS


def _measure_plans(
    folder: Path,
    artifacts: Mapping[str, Artifact],
    plans: Sequence[Widths],
    setting: Setting,
    part: Path,
    progress: Progress,
) -> tuple[PlanTimes, ...]:
    """Measures whole plans, made of the template one by one.

    An engine takes long to build and little to measure: each is kept, and measured in one pass.
    """
    template, options = open_template(folder), bench_options(setting)
    builds = setting.runtime in ENGINE_RUNTIMES
    with tempfile.TemporaryDirectory() as scratch:

        def make(number: int) -> Artifact:
            path = folder / "plans" / f"{number:03d}.onnx" if builds else Path(scratch, "plan.onnx")
            path.parent.mkdir(exist_ok=True)
            narrow_onnx(template, plans[number], path)
            return artifacts_of({"plan": path}, options, progress)["plan"]

        return measure_plans(
            next(iter(artifacts.values())),
            plans,
            make,
            template.template.network.input_shape,
            setting,
            part,
            passes=1 if builds else PASSES,
            progress=progress,
        )


def _predict(predictor: Predictor, artifact: Path) -> Prediction:
    if artifact.suffix == ".onnx":
        return predictor.predict_file(artifact, str(artifact))
    if artifact.is_dir() and (artifact / FILE).exists():
        raise DmcpError(f"{artifact} holds probe networks: give a plan, a run or an ONNX file.")
    return predictor.predict_plan(str(artifact), find_plan(artifact))
