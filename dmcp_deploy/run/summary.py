"""A run in a few lines of text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.stages import ENGINE, EXPORT, PRECISION, SEARCH, SLICE, TRAIN
from dmcp_deploy.units import format_macs


def summarize(run: RunDir) -> str:
    """Returns what a run has reached so far: budget, equality, accuracy, latency."""
    lines = [_budget(run), *_accuracies(run), *_proofs(run), *precision_lines(run)]
    lines += [_engine(run.file(name)) for name in _engines(run)]
    if run.file("bench.json").exists():
        from dmcp_deploy.bench.columns import format_table
        from dmcp_deploy.bench.record import BenchRecord

        lines += ["", format_table(BenchRecord.load(run.file("bench.json")))]
    return "\n".join(lines)


def precision_lines(run: RunDir) -> list[str]:
    """Returns a line for every precision the run's ONNX file was converted to, or judged in.

    What was said of an ONNX file that another one has replaced is left out.
    """
    stages = [stage for stage in run.stages() if stage.kind == PRECISION]
    return [
        _precision(stage.subject, run.figures(stage)) for stage in stages if run.is_current(stage)
    ]


def engine_line(path: Path) -> str:
    """Returns an engine in one line: where it lies, its layers, its bytes."""
    from dmcp_deploy.runtimes.engine_record import EngineRecord

    record = EngineRecord.load(path)
    layers = ", ".join(f"{count} {name}" for name, count in record.layer_precisions.items())
    weights = "" if record.weight_bytes is None else f", {record.weight_bytes / 1e6:.2f} MB weights"
    return f"{path}: layers {layers}{weights}, built in {record.build_s:.1f} s"


def _precision(name: str, figures: dict[str, Any]) -> str:
    if "parity" not in figures:
        return f"{name}: {figures.get('unchecked', 'not judged')}"
    parity = figures["parity"]
    return (
        f"top-1 {figures['top1']:7.2%} in {name} on {figures['images']} images;"
        f" {parity['snr_db']:.1f} dB from the trained network, same answer on"
        f" {parity['top1_agreement']:.2%}"
    )


def _engine(path: Path) -> str:
    try:
        return engine_line(path)
    except DmcpError as err:
        return str(err)


def _engines(run: RunDir) -> list[str]:
    """Returns the engines that were built of what lies in the run now."""
    stages = [stage for stage in run.stages() if stage.kind == ENGINE]
    return [stage.subject for stage in stages if run.is_current(stage)]


def _budget(run: RunDir) -> str:
    plan = ChannelPlan.load(run.file("plan.json"))
    text = f"{run.path}: {plan.network.model} {format_macs(plan.full_macs)}"
    text += f" -> {format_macs(plan.macs)} multiply-adds"
    if plan.budget_macs is None:
        return text
    share = plan.macs / plan.budget_macs
    return f"{text}, {share:.2%} of the budget {format_macs(plan.budget_macs)}"


def _accuracies(run: RunDir) -> list[str]:
    train = run.figures(TRAIN)
    found = [
        ("full network after the search", run.figures(SEARCH).get("full_accuracy")),
        ("pruned, before its training", run.figures(SLICE).get("accuracy")),
        ("pruned, trained", train.get("accuracy")),
        ("pruned, trained, at the deployed size", train.get("deployed_accuracy")),
    ]
    lines = [f"top-1 {_top1(accuracy)}  {what}" for what, accuracy in found if accuracy]
    if "majority_share" in train:
        lines.append(f"top-1 {train['majority_share']:7.2%}  always the most frequent class")
    return lines


def _top1(accuracy: dict[str, Any]) -> str:
    size, images = accuracy["image_size"], accuracy["images"]
    return f"{accuracy['top1']:7.2%} at {size} px on {images} images"


def _proofs(run: RunDir) -> list[str]:
    lines = []
    sliced = run.figures(SLICE).get("parity")
    if sliced:
        lines.append(f"supernet = sliced network to {sliced['max_rel']:.1e}")
    exported = run.figures(EXPORT).get("model")
    if exported:
        lines.append(f"ONNX Runtime = torch to {exported['parity']['max_rel']:.1e}")
    return lines
