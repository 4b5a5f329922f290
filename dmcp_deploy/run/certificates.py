"""Measures whether the plan of a run keeps its budget in time; needs no torch on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dmcp_deploy.bench.certificate import FILE, Certificate, Round
from dmcp_deploy.bench.measure import measure_artifacts
from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.bench.tables.cache import elsewhere
from dmcp_deploy.bench.tables.predict import Predictor
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.extras import is_installed
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.options.measure import Setting
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.run.artifacts import artifacts_of
from dmcp_deploy.run.tables import bench_options
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.files import ORIGINAL, PRUNED, TABLE, run_files
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.rundir.stages import CERTIFY, EXPORT
from dmcp_deploy.units import parse_latency

#: The folder of a run that holds networks to be measured before there are trained ones.
FOLDER = "certify"


def certify(run_dir: Path | str, *, compute: Compute | None = None) -> Certificate:
    """Measures the plan of a run beside the full network, and returns what that certifies.

    The trained networks are measured, or else those that the search has left for it, which take
    as long. It is the device of the latency table that counts.

    Args:
        run_dir: The run directory.
        compute: How long is measured, and where to report progress.

    Raises:
        DmcpError: The run has no budget in time or no plan, this is another device, or there are
            no ONNX files and no torch to make them.
    """
    run, compute = RunDir(Path(run_dir)), compute or Compute()
    request = _timed(run)
    table = LatencyTable.load(run.file(TABLE))
    differs = elsewhere(table, read_environment(devices=True))
    if differs is not None:
        raise DmcpError(
            f"The budget {request.latency} of {run.path} is for {table.device}, which cannot be"
            f" measured here ({differs}): run certify there."
        )
    certificate = with_plan(begun(run, table), table, ChannelPlan.load(run.file("plan.json")))
    files = _files(run, certificate.chosen.plan, compute)
    certificate = certificate.with_record(measure(files, table.setting, compute))
    record(run, certificate)
    return certificate


def begun(run: RunDir, table: LatencyTable) -> Certificate:
    """Returns the certificate of a run, as far as it has come; a new one has no plan yet."""
    request = _timed(run)
    assert request.latency is not None
    full_ms = Predictor(table).model.full_ms
    new = Certificate(
        asked=request.latency,
        limit_ms=parse_latency(request.latency).resolve(full_ms),
        full_ms=full_ms,
        setting=table.setting,
        device=table.device,
        ran_by=table.ran_by,
        table_digest=str(request.table_digest),
    )
    if not run.file(FILE).is_file():
        return new
    known = Certificate.load(run.file(FILE))
    if replace(known, rounds=()) != new:
        raise DmcpError(
            f"{run.file(FILE)} certifies another budget or latency table than the run's: delete it."
        )
    return known


def with_plan(certificate: Certificate, table: LatencyTable, plan: ChannelPlan) -> Certificate:
    """Returns a certificate whose last round is a plan's, unless it is the one chosen so far."""
    if certificate.rounds and certificate.chosen.plan.groups == plan.groups:
        return certificate
    factor = certificate.rounds[-1].factor if certificate.rounds else 1.0
    return certificate.with_round(Round(plan, table_ms(table, plan), factor))


def table_ms(table: LatencyTable, plan: ChannelPlan) -> float:
    """Returns what a latency table predicts of a plan, in milliseconds."""
    # Networks that differ in how they normalise their input take as long.
    same = replace(plan, network=table.network)
    return Predictor(table).predict_plan("plan", same).latency_ms


def measure(files: Mapping[str, Path], setting: Setting, compute: Compute) -> BenchRecord:
    """Returns the full network and the pruned one, measured interleaved on the target.

    Each sample is of a network that has just run, as where it runs alone and as tables tell.
    """
    options = bench_options(setting, seconds=compute.certify_s, alone=True)
    artifacts = artifacts_of(files, options, compute.progress)
    return measure_artifacts(artifacts, options, progress=compute.progress)


def record(run: RunDir, certificate: Certificate) -> None:
    """Writes a certificate and its stage."""
    with run.stage(CERTIFY, [TABLE, "plan.json"], [FILE]) as figures:
        certificate.save(run.file(FILE))
        figures["verdict"] = certificate.verdict


def left_files(run: RunDir) -> dict[str, Path]:
    """Returns where the networks lie that are measured before there are trained ones."""
    folder = run.file(FOLDER)
    return {ORIGINAL: folder / "original.onnx", PRUNED: folder / "pruned.onnx"}


def left_plan(run: RunDir) -> Path:
    """Returns where the plan of the pruned one of `left_files` lies."""
    return run.file(FOLDER) / "plan.json"


def _timed(run: RunDir) -> RunRequest:
    request = run.request()
    if request.latency is None:
        raise DmcpError(
            f"{run.path} has no budget in time, so there is nothing to certify: bench measures it."
        )
    if not run.file("plan.json").is_file():
        raise DmcpError(f"{run.path} has no plan.json yet: run search first.")
    return request


def _files(run: RunDir, plan: ChannelPlan, compute: Compute) -> Mapping[str, Path]:
    """Returns the ONNX files of the full network and of a plan's, made where torch is."""
    if run.is_current(EXPORT):
        with contextlib.suppress(DmcpError):  # exported without the full network
            return run_files(run.path)
    files = left_files(run)
    if all(path.is_file() for path in (*files.values(), left_plan(run))) and (
        ChannelPlan.load(left_plan(run)).groups == plan.groups
    ):
        return files
    if not all(map(is_installed, ("torch", "torchvision", "onnxscript"))):
        raise DmcpError(
            f"{run.path} has no ONNX files of its plan, and no torch is here to make them: run"
            " export where torch is, or copy the run's folder certify from there."
        )
    from dmcp_deploy.run.certify import leave_files
    from dmcp_deploy.run.context import RunContext

    leave_files(RunContext.resume(run.path, compute), plan)
    return files
