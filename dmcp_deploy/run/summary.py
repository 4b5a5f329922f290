"""A run in a few lines of text."""

from __future__ import annotations

from pathlib import Path

from dmcp_deploy.bench.certificate import FILE, Certificate, certificate_text
from dmcp_deploy.bench.columns import format_table
from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.report.facts import Accuracy, Forms, Parity
from dmcp_deploy.report.gather import accuracies, parities, unjudged
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.stages import ENGINE, PRECISION, TRAIN, Stage
from dmcp_deploy.runtimes.engine_record import EngineRecord
from dmcp_deploy.units import format_macs

#: The proofs that are told, and how.
_PROOFS = {
    Forms.SLICED: "supernet = sliced network",
    Forms.PRUNED: "ONNX Runtime = torch",
}


def summarize(run: RunDir) -> str:
    """Returns what a run has reached so far: budget, accuracy, equality, latency."""
    figures = {stage: run.figures(stage) for stage in run.stages()}
    plan = ChannelPlan.load(run.file("plan.json"))
    lines = [_budget(run, plan), *map(_accuracy_line, accuracies(figures))]
    lines[1:1] = filter(None, [*plan.notes(), certificate_line(run, plan)])
    if "majority_share" in (train := figures.get(TRAIN, {})):
        lines.append(f"top-1 {train['majority_share']:7.2%}  always the most frequent class")
    lines += [
        f"{_PROOFS[item.forms]} to {item.max_rel:.1e}"
        for item in parities(figures)
        if item.forms in _PROOFS
    ]
    lines += precision_lines(run)
    lines += [_engine_line(run.file(stage.subject)) for stage in _current(run, ENGINE)]
    if run.file("bench.json").exists():
        lines += ["", format_table(BenchRecord.load(run.file("bench.json")))]
    return "\n".join(lines)


def certificate_line(run: RunDir, plan: ChannelPlan) -> str:
    """Returns what certifies that a plan keeps the budget in time; "" where nothing does."""
    if not run.file(FILE).is_file():
        return ""
    certificate = Certificate.load(run.file(FILE))
    if certificate.chosen.plan.groups == plan.groups:
        return certificate_text(certificate)
    return f"{run.file(FILE)} is of another plan: certify measures this one."


def precision_lines(run: RunDir) -> list[str]:
    """Returns a line for every precision the run's ONNX file was converted to, or judged in.

    What was said of an ONNX file that another one has replaced is left out.
    """
    lines: list[str] = []
    for stage in _current(run, PRECISION):
        figures = {stage: run.figures(stage)}
        lines += map(_judged_line, parities(figures))
        lines += [f"{name}: {reason}" for name, reason in unjudged(figures).items()]
    return lines


def engine_line(path: Path) -> str:
    """Returns an engine in one line: where it lies, its size, its layers, its weights."""
    record = EngineRecord.load(path)
    layers = ", ".join(f"{count} {name}" for name, count in record.layer_precisions.items())
    weights = "" if record.weight_bytes is None else f", {record.weight_bytes / 1e6:.2f} MB weights"
    size = f"{record.engine_bytes / 1e6:.2f} MB"
    return f"{path}: {size}, layers {layers}{weights}, built in {record.build_s:.1f} s"


def _current(run: RunDir, kind: str) -> list[Stage]:
    """Returns the stages of a kind that were done on what lies in the run now."""
    return [stage for stage in run.stages() if stage.kind == kind and run.is_current(stage)]


def _budget(run: RunDir, plan: ChannelPlan) -> str:
    text = f"{run.path}: {plan.network.model} {format_macs(plan.full_macs)}"
    text += f" -> {format_macs(plan.macs)} multiply-adds"
    shares = (f", {one.share:.2%} of the budget of {one.text}" for one in plan.budgets())
    return text + "".join(shares)


def _accuracy_line(item: Accuracy) -> str:
    where = f"at {item.image_size} px on {item.images} images"
    return f"top-1 {item.top1:7.2%} {where}  {item.network.value}"


def _judged_line(item: Parity) -> str:
    return (
        f"top-1 {item.top1:7.2%} in {item.precision} on {item.images} images;"
        f" {item.snr_db:.1f} dB from the trained network, same answer on"
        f" {item.top1_agreement:.2%}"
    )


def _engine_line(path: Path) -> str:
    try:
        return engine_line(path)
    except DmcpError as err:
        return str(err)
