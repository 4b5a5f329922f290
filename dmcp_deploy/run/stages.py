"""The work of every stage of a run that is not done yet, from search to converted ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmcp_deploy.artifact import atomic_path, digest_file
from dmcp_deploy.data.loader import steps_per_epoch
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.precisions import CALIBRATED, Evidence, convert, judge, precision_path
from dmcp_deploy.export.quantize import check_calibration
from dmcp_deploy.export.slice import slice_proven
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.export.verify import compare_outputs, require_parity
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.onnxgraph.cost import onnx_cost
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.run.checks import check_pictures, check_training
from dmcp_deploy.run.context import EVAL_BATCH, SUPERNET, Job
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.request import CALIBRATION_IMAGES
from dmcp_deploy.runtimes.onnxruntime import OnnxSession
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.run import search_plan
from dmcp_deploy.training.checkpoint import drop_previous
from dmcp_deploy.training.dense import DenseTask, DistillTask
from dmcp_deploy.training.distributed import is_main, wait_for_all, world_size
from dmcp_deploy.training.loop import run_loop
from dmcp_deploy.training.weights import load_weights, read_tensors, save_weights
from dmcp_deploy.units import format_macs

#: Of the largest logit, in FP32. ONNX Runtime multiplies norms into weights and adds in an order of
#: its own, with errors of some 1e-6; what an export gets wrong shows in the logits' first digits.
ONNX_TOLERANCE = 1e-4


def run_search(job: Job) -> None:
    """Searches the plan of a run that is new, or was stopped before it had one.

    Raises:
        DmcpError: Something asked for cannot be had, found before anything is written; or the
            run directory holds something else.
    """
    begun = job.run.holds(job.request)
    searched = begun and _is_searched(job)
    wait_for_all()
    if searched:
        job.plan()
        return
    problem = job.problem(job.first_network())
    if not begun:
        check_training(problem.network, job.data, job.recipe)
    if job.compute.supernet is not None:
        RunDir(Path(job.compute.supernet)).check_lends(job.request)
    if not begun and is_main():
        check_pictures(job.data, job.compute.progress)
    wait_for_all()
    if is_main():
        job.run.begin(job.request)
    job.compute.progress.say(
        f"Search: {job.request.network.model} has {format_macs(problem.cost.full_macs)}, the"
        f" budget is {format_macs(problem.budget_macs)} multiply-adds"
    )
    _search(job, problem)


def run_slice(job: Job) -> None:
    """Slices the full network after the search by the plan, and proves the result equal.

    Raises:
        DmcpError: There is no plan, or the sliced network computes something else.
    """
    plan = job.plan()
    current = job.run.is_current("slice")
    wait_for_all()
    if not current:
        _slice(job, plan)


def run_train(job: Job) -> None:
    """Trains the pruned network: from scratch, from sliced weights, or by distillation.

    Raises:
        DmcpError: There is no plan yet, or a checkpoint is damaged.
    """
    plan = job.plan()
    current = job.run.is_current("train")
    wait_for_all()
    if current:
        return
    sliced = job.request.init == "sliced"
    network = job.searched_network() if sliced else job.random_network()
    plan.check_fits(network.sizes(), network.spec.model)
    inputs = ["plan.json", SUPERNET] if sliced else ["plan.json"]
    with job.stage("train", inputs, ["dense.safetensors"]) as figures:
        figures["steps"] = steps = _train_steps(job)
        dense = _trained(job, network, plan, steps)
        figures["accuracy"] = job.evaluate(dense, "evaluate pruned").to_json()
        if job.deployed_size != job.image_size:
            deployed = job.evaluate(dense, "evaluate deployed", job.deployed_size)
            figures["deployed_accuracy"] = deployed.to_json()
        figures["majority_share"] = job.data.majority_share
        if is_main():
            save_weights(dense, job.run.file("dense.safetensors"))
    drop_previous(job.run.file("checkpoints"))


def run_export(job: Job, batch: int | None, opset: int, original: bool = True) -> None:
    """Exports the pruned network, and the full one to compare with, to ONNX.

    Args:
        job: The run; its network is trained.
        batch: Images per call; None leaves the batch dynamic.
        opset: ONNX operator set.
        original: Whether the full network is exported as well.

    Raises:
        DmcpError: A network cannot be exported, or ONNX Runtime computes something else.
    """
    plan, asked = job.plan(), {"batch": batch, "opset": opset}
    asked |= {} if original else {"original": False}
    current = job.run.is_current("export", asked)
    if is_main() and not current:
        _export_networks(job, plan, asked)
    wait_for_all()


def run_precisions(job: Job, precisions: Sequence[str], calibration: int | None) -> None:
    """Converts a run's ONNX file to other precisions, and judges each by the validation images.

    Args:
        job: The run; its ONNX file is exported.
        precisions: Of "fp32", "fp16", "bf16", "int8", "fp8".
        calibration: Training images that INT8 and FP8 are calibrated on; None keeps what has been
            calibrated before, on however many.

    Raises:
        DmcpError: There is no ONNX file, it cannot be converted, or the result is further from
            the trained network than its precision's tolerance.
    """
    source = job.run.file("model.onnx")
    if not source.exists():
        raise DmcpError(f"{job.run.path} has no model.onnx yet: run export first.")
    wanted = [name for name in precisions if not _is_converted(job, name, calibration)]
    count = CALIBRATION_IMAGES if calibration is None else calibration
    if any(name in CALIBRATED for name in wanted):
        check_calibration(min(count, len(job.data.train)))
    if wanted and is_main():
        evidence = _evidence(job, count)
        for name in wanted:
            _convert(job, source, name, count, evidence)
    wait_for_all()


def load_dense(folder: Path) -> nn.Module:
    """Returns the pruned, trained network in a folder, in evaluation mode, on the CPU.

    Raises:
        DmcpError: The plan or the trained weights are missing, damaged, or do not fit.
    """
    if not folder.is_dir():
        raise DmcpError(f"There is no run directory {folder}.")
    plan = ChannelPlan.load(folder / "plan.json")
    weights = folder / "dense.safetensors"
    if not weights.exists():
        raise DmcpError(f"{folder} has no dense.safetensors yet: run train first.")
    network = build_network(plan.network)
    plan.check_fits(network.sizes(), plan.network.model)
    dense = slice_network(network, plan.groups)
    load_weights(dense, read_tensors(weights), str(weights))
    return dense.eval()


def _is_searched(job: Job) -> bool:
    """Returns whether the search is done and what it made still lies there.

    A plan may have been replaced by another one since.
    """
    record = job.run.stages().get("search")
    if record is None:
        return False
    return all(job.run.file(name).exists() for name in ("plan.json", *record["outputs"]))


def _search(job: Job, problem: SearchProblem) -> None:
    with job.stage("search", [], [SUPERNET]) as figures:
        plan, result = search_plan(job.request.method, problem, job.request.align)
        figures.update(result.figures)
        figures["macs"], figures["budget_macs"] = plan.macs, problem.budget_macs
        model = problem.network.model
        if result.trained:
            job.recalibrate(model, "recalibrate full")
            figures["full_accuracy"] = job.evaluate(model, "evaluate full").to_json()
        if not is_main():
            return
        if result.trained:
            save_weights(model, job.run.file(SUPERNET))
        plan.save(job.run.file("plan.json"))
    drop_previous(job.run.file("checkpoints"))


def _slice(job: Job, plan: ChannelPlan) -> None:
    network = job.searched_network()
    with job.stage("slice", ["plan.json", SUPERNET], ["sliced.safetensors"]) as figures:
        # On the CPU: convolutions on a GPU may round to TF32 and choose algorithms by their shape.
        dense, parity = slice_proven(network, plan, job.proof_images())
        _check_count(dense, plan)
        figures["parity"] = parity.to_json()
        figures["params"] = plan.params
        if job.run.file(SUPERNET).exists() or job.request.weights:
            job.recalibrate(dense, "recalibrate sliced")
            figures["accuracy"] = job.evaluate(dense, "evaluate sliced").to_json()
        if is_main():
            save_weights(dense, job.run.file("sliced.safetensors"))


def _train_steps(job: Job) -> int:
    schedule = job.recipe.train
    per_epoch = steps_per_epoch(job.data, schedule.batch_size * world_size())
    steps = round(schedule.epochs * per_epoch)
    return max(1, min(steps, job.request.max_steps or steps))


def _trained(job: Job, network: Network, plan: ChannelPlan, steps: int) -> nn.Module:
    """Returns the pruned network after its training."""
    dense = slice_network(network, plan.groups)
    _check_count(dense, plan)
    if job.request.distill:
        supernet = Supernet(network)
        task: DenseTask = DistillTask(supernet, plan.groups, job.recipe, steps, job.precision)
    else:
        task = DenseTask(dense, job.recipe, steps, job.precision)
    token = f"{job.request.token()}:{digest_file(job.run.file('plan.json'))}"
    run_loop(
        task,
        lambda start: job.training_batches(start, steps),
        job.loop_settings("train", steps, token),
        job.compute.progress,
    )
    task.finish()
    if job.request.distill:
        dense = slice_network(network, plan.groups)
        job.recalibrate(dense, "recalibrate pruned")
    return dense


def _export_networks(job: Job, plan: ChannelPlan, asked: Mapping[str, Any]) -> None:
    batch, opset, original = asked["batch"], asked["opset"], asked.get("original", True)
    networks = {"model": (load_dense(job.run.path), plan.macs)}
    outputs = ["model.onnx", *(["original.onnx"] if original else [])]
    with job.run.stage("export", ["plan.json", "dense.safetensors"], outputs) as figures:
        figures["asked"] = asked
        if original:
            networks["original"] = (job.searched_network().model, plan.full_macs)
        for name, (model, macs) in networks.items():
            job.compute.progress.say(f"Exporting {name}.onnx")
            figures[name] = _export(job, job.run.file(f"{name}.onnx"), model, macs, batch, opset)


def _export(
    job: Job, path: Path, model: nn.Module, macs: int, batch: int | None, opset: int
) -> dict[str, Any]:
    """Writes one network's ONNX file once ONNX Runtime is seen to compute the same."""
    model = model.cpu().eval().to(memory_format=torch.contiguous_format)
    with atomic_path(path) as part:
        exported = export_onnx(
            model,
            part,
            input_shape=job.request.network.input_shape,
            batch=batch,
            opset=opset,
            metadata={"model": job.request.network.model, "macs": str(macs)},
        )
        images = _repeated(job.proof_images(), batch)
        with torch.no_grad(), OnnxSession(part) as session:
            parity = compare_outputs(model(images).numpy(), session.run(images.numpy()))
        require_parity(parity, ONNX_TOLERANCE, f"ONNX Runtime and torch on {path.name}")
        found = onnx_cost(part).macs
        if found != macs:
            raise DmcpError(f"{path} has {found} multiply-adds where the plan has {macs}.")
    return {
        "parity": parity.to_json(),
        "onnx_bytes": exported.onnx_bytes,
        "opset": exported.opset,
        "simplified": exported.simplified,
        "macs": found,
    }


def _is_converted(job: Job, precision: str, calibration: int | None) -> bool:
    stage = f"precision {precision}"
    return job.run.is_current(
        stage, None if calibration is None else _asked(precision, calibration)
    )


def _asked(precision: str, calibration: int) -> dict[str, int]:
    return {"calibration": calibration} if precision in CALIBRATED else {}


def _convert(job: Job, source: Path, precision: str, calibration: int, evidence: Evidence) -> None:
    path = precision_path(source, job.run.path, precision)
    outputs = [path.name] if path != source else []
    with job.run.stage(f"precision {precision}", [source.name], outputs) as figures:
        figures["asked"] = _asked(precision, calibration)
        if path == source:
            figures |= judge(source, precision, evidence, job.compute.progress)
            return
        job.compute.progress.say(f"Converting {source.name} to {precision}")
        with atomic_path(path) as part:
            figures |= convert(source, part, precision, evidence)
            figures |= judge(part, precision, evidence, job.compute.progress)


def _evidence(job: Job, calibration: int) -> Evidence:
    """Returns images to calibrate and to judge by, with the trained network's logits on them."""
    dense = load_dense(job.run.path)
    reference = job.logits(dense, "evaluate trained", job.deployed_size)
    return Evidence(
        calibration=job.calibration_images(calibration).numpy(),
        validation=job.validation_arrays,
        total=-(-len(reference) // EVAL_BATCH),
        reference=reference.numpy(),
    )


def _repeated(images: Tensor, batch: int | None) -> Tensor:
    """Returns just as many images as a fixed batch takes, from the first on again."""
    if batch is None:
        return images
    return images[torch.arange(batch) % len(images)]


def _check_count(dense: nn.Module, plan: ChannelPlan) -> None:
    params = sum(p.numel() for p in dense.parameters())
    if params != plan.params:
        raise DmcpError(f"The sliced network has {params} parameters, and its plan {plan.params}.")
