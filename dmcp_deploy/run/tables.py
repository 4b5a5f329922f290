"""Latency tables: probe networks made, measured, and what they predict of plans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dmcp_deploy.artifact import check_writable
from dmcp_deploy.bench.tables.make import make_table
from dmcp_deploy.bench.tables.measure import measure_probes
from dmcp_deploy.bench.tables.predict import Prediction, Predictor
from dmcp_deploy.bench.tables.probes import FILE, ProbeSet
from dmcp_deploy.bench.tables.table import LatencyTable, Setting
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.extras import require
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.published.plan_text import find_plan
from dmcp_deploy.registry import ENGINE_RUNTIMES, ONNX_RUNTIMES, PRECISIONS, choose
from dmcp_deploy.run.artifacts import artifacts_of, check_runtime
from dmcp_deploy.rundir.request import DEFAULT_ALIGN, BenchOptions, Compute
from dmcp_deploy.runtimes.profile import check_profiler

if TYPE_CHECKING:
    from dmcp_deploy.bench.artifacts import Artifact

PROBES = 16


def table_probes(
    model: str,
    out: Path | str,
    *,
    count: int = PROBES,
    width_mult: float = 1.0,
    input_size: int = 224,
    classes: int = 1000,
    align: int | None = None,
    seed: int = 0,
    compute: Compute | None = None,
) -> ProbeSet:
    """Writes the probe networks of a model as ONNX files; goes on where a killed call stopped.

    Args:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        out: The folder of the files.
        count: How many networks, the full one included.
        width_mult: The full network's width multiplier.
        input_size: Side of the input in pixels.
        classes: Length of the logits.
        align: Widths are multiples of this where a group is larger; None is 8.
        seed: The seed of the widths.
        compute: Where to report progress.

    Raises:
        DmcpError: A library is missing, the model is unknown, a number is out of range, or the
            folder holds other probes.
    """
    require("torch", "torchvision", "onnx", "onnxscript")
    from dmcp_deploy.run.probes import make_probes

    return make_probes(
        NetworkSpec(model, width_mult, classes, (3, input_size, input_size)),
        Path(out),
        count=count,
        align=DEFAULT_ALIGN if align is None else align,
        seed=seed,
        progress=(compute or Compute()).progress,
    )


def table_build(
    probes: Path | str,
    out: Path | str,
    *,
    runtime: str = "onnxruntime",
    precision: str = "fp32",
    threads: int = 0,
    batch: int = 1,
    compute: Compute | None = None,
) -> LatencyTable:
    """Measures probe networks and writes their latency table; needs no torch.

    What is measured so far lies beside the table, and the same call goes on from it.

    Args:
        probes: The folder that `table_probes` has written.
        out: The table to write.
        runtime: "onnxruntime" or "openvino"; "tensorrt" and "tensorrt-rtx" run engines, which are
            built first, one a probe.
        precision: What engines compute in; elsewhere "fp32", as the probes are.
        threads: Threads on a CPU; 0 leaves the number to the runtime.
        batch: Images per call.
        compute: Where to report progress.

    Raises:
        DmcpError: The probes or the runtime are not there, or what lies beside the table is of
            another measurement.
    """
    folder, out, progress = Path(probes), Path(out), (compute or Compute()).progress
    setting = check_setting(runtime, precision, threads, batch)
    known = ProbeSet.load(folder)
    files = known.files(folder)
    check_writable(out)
    artifacts: dict[str, Artifact] = artifacts_of(files, _options(setting), progress)
    part = out.with_suffix(".part.json")
    measured = measure_probes(
        artifacts, known.network.input_shape, setting, part, progress=progress
    )
    table = make_table(known, files, setting, measured)
    table.save(out)
    part.unlink(missing_ok=True)
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


def check_setting(runtime: str, precision: str, threads: int, batch: int) -> Setting:
    """Returns how a table is to be measured.

    Raises:
        DmcpError: A value is unknown or out of range, or the runtime is not there.
    """
    choose("--runtime", runtime, (*ONNX_RUNTIMES, *ENGINE_RUNTIMES))
    choose("--precision", precision, PRECISIONS)
    if runtime in ONNX_RUNTIMES and precision != "fp32":
        raise DmcpError(
            f"--precision {precision} is for engines (--runtime {' or '.join(ENGINE_RUNTIMES)}):"
            f" {runtime} runs the probe networks in the fp32 that they are in."
        )
    check_profiler(runtime)
    setting = Setting(runtime, precision, threads, batch)
    _options(setting)  # says which number is out of range
    check_runtime(runtime)
    return setting


def probes_beside(out: Path) -> Path:
    """Returns the folder of the probes that are made for a table."""
    return out.with_name(f"{out.stem}-probes")


def _options(setting: Setting) -> BenchOptions:
    return BenchOptions(
        batches=(setting.batch,),
        threads=setting.threads,
        runtime=setting.runtime,
        precision=setting.precision if setting.runtime in ENGINE_RUNTIMES else None,
    )


def _predict(predictor: Predictor, artifact: Path) -> Prediction:
    if artifact.suffix == ".onnx":
        return predictor.predict_file(artifact, str(artifact))
    if artifact.is_dir() and (artifact / FILE).exists():
        raise DmcpError(f"{artifact} holds probe networks: give a plan, a run or an ONNX file.")
    return predictor.predict_plan(str(artifact), find_plan(artifact))
