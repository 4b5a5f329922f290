"""The work of every stage of a run that is not done yet, from search to converted ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dmcp_deploy.artifact import atomic_path, digest_file
from dmcp_deploy.data.loader import steps_per_epoch
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.precisions import (
    CALIBRATED,
    Evidence,
    convert_judged,
    judge,
    precision_path,
)
from dmcp_deploy.export.proven import export_proven
from dmcp_deploy.export.quantize import check_calibration
from dmcp_deploy.export.slice import slice_proven
from dmcp_deploy.network.fan_in import match_fan_in
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.options.export import CALIBRATION_IMAGES, CALIBRATION_METHOD
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.run.checks import check_pictures, check_training
from dmcp_deploy.run.context import SUPERNET, RunContext
from dmcp_deploy.run.data import EVAL_BATCH, note_data
from dmcp_deploy.run.evaluation import evaluate, logits, recalibrate
from dmcp_deploy.run.networks import (
    drop_nothing,
    load_dense,
    random_network,
    searched_network,
)
from dmcp_deploy.run.problem import search_problem
from dmcp_deploy.run.start import WEIGHTS_FILE, keep_weights, weights_given
from dmcp_deploy.run.target import keep_beside
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.stages import EXPORT, SEARCH, SLICE, TRAIN, Stage
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.run import search_plan
from dmcp_deploy.training.checkpoint import drop_previous
from dmcp_deploy.training.dense import DenseTask, DistillTask
from dmcp_deploy.training.distributed import is_main, wait_for_all, world_size
from dmcp_deploy.training.evaluate import lags_behind
from dmcp_deploy.training.loop import run_loop
from dmcp_deploy.training.weights import save_weights


def prepare_search(context: RunContext) -> SearchProblem | None:
    """Returns the search of a run that is new, or was stopped before it had a plan; else None.

    Raises:
        DmcpError: Something asked for cannot be had, found before anything is written; or the
            run directory holds something else.
    """
    begun = context.run.holds(context.request)
    searched = begun and _is_searched(context)
    wait_for_all()
    if searched:
        context.note_moved_data()
        context.plan()
        return None
    problem = search_problem(context)
    if not begun:
        check_training(problem.network, context.data.images, context.recipe)
    if context.compute.supernet is not None:
        RunDir(Path(context.compute.supernet)).check_lends(context.request)
    if not begun and is_main():
        check_pictures(context.data.images, context.compute.progress)
    wait_for_all()
    return problem


def run_search(context: RunContext, problem: SearchProblem) -> SearchResult:
    """Searches the plan of a run by what `prepare_search` returned."""
    if is_main():
        context.run.begin(context.request)
        if context.request.table_digest is not None:
            keep_beside(context.run, context.request.table_digest)
        note_data(context.data, context.run)
    if problem.pretrained:
        keep_weights(context, problem.network)
    if note := context.data.workers_note():
        context.compute.progress.say(note)
    for limit in problem.limits.limits:
        full, most = map(limit.cost.text, (limit.cost.at(problem.space.full), limit.most))
        context.compute.progress.say(
            f"Search: {context.request.network.model} has {full}, the budget is {most}"
        )
    return _search(context, problem)


def keep_decoded(context: RunContext, problem: SearchProblem, plan: ChannelPlan) -> None:
    """Records the search anew once its plan has been decoded under other limits.

    The weights of some methods are the plan's own.
    """
    known = context.run.stages()[SEARCH]
    with context.stage(SEARCH, [], [SUPERNET], known.seconds) as figures:
        figures.update(known.figures)
        figures.update(_plan_figures(plan))
        if "full_accuracy" in known.figures:
            figures["full_accuracy"] = _keep_supernet(context, problem)


def run_slice(context: RunContext) -> None:
    """Slices the full network after the search by the plan, and proves the result equal.

    Raises:
        DmcpError: There is no plan, or the sliced network computes something else.
    """
    plan = context.plan()
    current = context.run.is_current(SLICE)
    wait_for_all()
    if not current:
        _slice(context, plan)


def run_train(context: RunContext) -> None:
    """Trains the pruned network: from scratch, from sliced weights, or by distillation.

    Raises:
        DmcpError: There is no plan yet, or a checkpoint is damaged.
    """
    plan = context.plan()
    current = context.run.is_current(TRAIN)
    wait_for_all()
    if current:
        return
    sliced = context.request.init == "sliced"
    network = searched_network(context) if sliced else random_network(context)
    plan.check_fits(network.sizes(), network.spec.model)
    inputs = ["plan.json", *([SUPERNET, WEIGHTS_FILE] if sliced else [])]
    with context.stage(TRAIN, inputs, ["dense.safetensors"]) as figures:
        figures["steps"] = steps = _train_steps(context)
        dense = _trained(context, network, plan, steps)
        figures["accuracy"] = evaluate(context, dense, "evaluate pruned").to_json()
        if context.data.deployed_size != context.data.image_size:
            deployed = evaluate(context, dense, "evaluate deployed", context.data.deployed_size)
            figures["deployed_accuracy"] = deployed.to_json()
        figures["majority_share"] = context.data.images.majority_share
        if is_main():
            save_weights(dense, context.run.file("dense.safetensors"))
    drop_previous(context.run.file("checkpoints"))


def run_export(context: RunContext, batch: int | None, opset: int, original: bool = True) -> None:
    """Exports the pruned network, and the full one to compare with, to ONNX.

    Args:
        context: The run; its network is trained.
        batch: Images per call; None leaves the batch dynamic.
        opset: ONNX operator set.
        original: Whether the full network is exported as well.

    Raises:
        DmcpError: A network cannot be exported, or ONNX Runtime computes something else.
    """
    plan, asked = context.plan(), {"batch": batch, "opset": opset}
    asked |= {} if original else {"original": False}
    current = context.run.is_current(EXPORT, asked)
    if is_main() and not current:
        _export_networks(context, plan, asked)
    wait_for_all()


def run_precisions(
    context: RunContext,
    precisions: Sequence[str],
    calibration: int | None,
    method: str = CALIBRATION_METHOD,
) -> None:
    """Converts a run's ONNX file to other precisions, and judges each by the validation images.

    Args:
        context: The run; its ONNX file is exported.
        precisions: Of "fp32", "fp16", "bf16", "int8", "fp8".
        calibration: Training images that INT8 and FP8 are calibrated on; None keeps what has been
            calibrated before, on however many.
        method: How INT8 finds the ranges of activations.

    Raises:
        DmcpError: There is no ONNX file, it cannot be converted, or the result is further from
            the trained network than its precision's tolerance.
    """
    source = context.run.file("model.onnx")
    if not source.exists():
        raise DmcpError(f"{context.run.path} has no model.onnx yet: run export first.")
    wanted = [name for name in precisions if not _is_converted(context, name, calibration, method)]
    count = CALIBRATION_IMAGES if calibration is None else calibration
    if any(name in CALIBRATED for name in wanted):
        check_calibration(min(count, len(context.data.images.train)))
    if wanted and is_main():
        evidence = _evidence(context, count, method)
        for name in wanted:
            _convert(context, source, name, count, evidence)
    wait_for_all()


def _is_searched(context: RunContext) -> bool:
    """Returns whether the search is done and what it made still lies there.

    A plan may have been replaced by another one since.
    """
    record = context.run.stages().get(SEARCH)
    if record is None:
        return False
    return all(context.run.file(name).exists() for name in ("plan.json", *record.outputs))


def _search(context: RunContext, problem: SearchProblem) -> SearchResult:
    with context.stage(SEARCH, [], [SUPERNET]) as figures:
        plan, result = search_plan(context.request.method, problem, context.request.align)
        figures.update(result.figures)
        figures.update(_plan_figures(plan))
        if result.trained:
            figures["full_accuracy"] = _keep_supernet(context, problem)
        if is_main():
            plan.save(context.run.file("plan.json"))
            for note in plan.notes():
                context.compute.progress.say(note)
    if is_main():
        drop_previous(context.run.file("checkpoints"))
    return result


def _plan_figures(plan: ChannelPlan) -> dict[str, Any]:
    figures = {"macs": plan.macs, "budget_macs": plan.budget_macs}
    return figures if plan.is_proven is None else {**figures, "is_proven": plan.is_proven}


def _keep_supernet(context: RunContext, problem: SearchProblem) -> dict[str, Any]:
    """Writes the full network as the search leaves it; returns its accuracy."""
    model = problem.network.model
    recalibrate(context, model, "recalibrate full")
    accuracy = evaluate(context, model, "evaluate full").to_json()
    if is_main():
        save_weights(model, context.run.file(SUPERNET))
    return accuracy


def _slice(context: RunContext, plan: ChannelPlan) -> None:
    network = searched_network(context)
    inputs = ["plan.json", SUPERNET, WEIGHTS_FILE]
    with context.stage(SLICE, inputs, ["sliced.safetensors"]) as figures:
        # On the CPU: convolutions on a GPU may round to TF32 and choose algorithms by their shape.
        dense, parity = slice_proven(network, plan, context.data.proof_images())
        _check_count(dense, plan)
        if network.graph_reason:
            context.compute.progress.say(
                f"Pruned, {context.request.network.model} is its traced graph and not its class:"
                f" {network.graph_reason}"
            )
        figures["parity"] = parity.to_json()
        figures["params"] = plan.params
        if context.run.file(SUPERNET).exists() or weights_given(context):
            recalibrate(context, dense, "recalibrate sliced")
            figures["accuracy"] = evaluate(context, dense, "evaluate sliced").to_json()
        if is_main():
            save_weights(dense, context.run.file("sliced.safetensors"))


def _train_steps(context: RunContext) -> int:
    schedule = context.recipe.train
    per_epoch = steps_per_epoch(context.data.images, schedule.batch_size * world_size())
    steps = round(schedule.epochs * per_epoch)
    return max(1, min(steps, context.request.max_steps or steps))


def _trained(context: RunContext, network: Network, plan: ChannelPlan, steps: int) -> nn.Module:
    """Returns the pruned network after its training."""
    if not context.recipe.dropout:
        drop_nothing(context, network)
    dense = slice_network(network, plan.groups)
    _check_count(dense, plan)
    if context.request.init == "scratch" and context.recipe.own_fan_in:
        match_fan_in(network, dense)
    if context.request.distill:
        supernet = Supernet(network)
        task: DenseTask = DistillTask(
            supernet, plan.groups, context.recipe, steps, context.precision
        )
    else:
        task = DenseTask(dense, context.recipe, steps, context.precision)
    token = f"{context.request.token()}:{digest_file(context.run.file('plan.json'))}"
    run_loop(
        task,
        lambda start: context.data.training_batches(start, steps),
        context.loop_settings("train", steps, token),
        context.compute.progress,
    )
    task.finish()
    if context.request.distill:
        dense = slice_network(network, plan.groups)
    if context.request.distill or lags_behind(dense, steps):
        recalibrate(context, dense, "recalibrate pruned")
    return dense


def _export_networks(context: RunContext, plan: ChannelPlan, asked: Mapping[str, Any]) -> None:
    batch, opset, original = asked["batch"], asked["opset"], asked.get("original", True)
    networks = {"model": (load_dense(context.run.path), plan.macs)}
    outputs = ["model.onnx", *(["original.onnx"] if original else [])]
    with context.run.stage(EXPORT, ["plan.json", "dense.safetensors"], outputs) as figures:
        figures["asked"] = asked
        if original:
            networks["original"] = (searched_network(context).model, plan.full_macs)
        for name, (model, macs) in networks.items():
            context.compute.progress.say(f"Exporting {name}.onnx")
            figures[name] = _export(
                context, context.run.file(f"{name}.onnx"), model, macs, batch, opset
            )


def _export(
    context: RunContext, path: Path, model: nn.Module, macs: int, batch: int | None, opset: int
) -> dict[str, Any]:
    """Writes one network's ONNX file once ONNX Runtime is seen to compute the same."""
    return export_proven(
        model,
        path,
        images=context.data.proof_images(),
        macs=macs,
        batch=batch,
        opset=opset,
        metadata={"model": context.request.network.model, **context.data.fed.to_onnx()},
        tolerance=context.onnx_tolerance,
    )


def _is_converted(
    context: RunContext, precision: str, calibration: int | None, method: str
) -> bool:
    stage = Stage.precision(precision)
    if calibration is None and method == CALIBRATION_METHOD:
        return context.run.is_current(stage)
    asked = _asked(precision, calibration or CALIBRATION_IMAGES, method)
    return context.run.is_current(stage, asked)


def _asked(precision: str, calibration: int, method: str) -> dict[str, Any]:
    asked: dict[str, Any] = {"calibration": calibration} if precision in CALIBRATED else {}
    # Older runs have no method on record: theirs is the usual one.
    named = precision == "int8" and method != CALIBRATION_METHOD
    return {**asked, "calibration_method": method} if named else asked


def _convert(
    context: RunContext, source: Path, precision: str, calibration: int, evidence: Evidence
) -> None:
    path = precision_path(source, context.run.path, precision)
    outputs = [path.name] if path != source else []
    with context.run.stage(Stage.precision(precision), [source.name], outputs) as figures:
        figures["asked"] = _asked(precision, calibration, evidence.method)
        if path == source:
            figures |= judge(source, precision, evidence, context.compute.progress)
            return
        context.compute.progress.say(f"Converting {source.name} to {precision}")
        with atomic_path(path) as part:
            figures |= convert_judged(source, part, precision, evidence, context.compute.progress)


def _evidence(context: RunContext, calibration: int, method: str) -> Evidence:
    """Returns images to calibrate and to judge by, with the trained network's logits on them."""
    dense = load_dense(context.run.path)
    reference = logits(context, dense, "evaluate trained", context.data.deployed_size)
    return Evidence(
        calibration=context.data.calibration_images(calibration).numpy(),
        validation=context.data.validation_arrays,
        total=-(-len(reference) // EVAL_BATCH),
        reference=reference.numpy(),
        method=method,
    )


def _check_count(dense: nn.Module, plan: ChannelPlan) -> None:
    params = sum(p.numel() for p in dense.parameters())
    if params != plan.params:
        raise DmcpError(f"The sliced network has {params} parameters, and its plan {plan.params}.")
