"""The chain of stages over one run directory: search, slice, train, export, bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import ChannelPlan, NetworkSpec
from dmcp_deploy.rundir import Compute, RunDir, RunRequest
from dmcp_deploy.units import format_macs, parse_budget

if TYPE_CHECKING:
    from torch import nn

    from dmcp_deploy.bench.record import BenchRecord
    from dmcp_deploy.job import Job

DEFAULT_ALIGN = 8  # half-precision tensor cores and CPU kernels work on multiples of 8 channels
ORIGINAL, PRUNED = "original", "pruned"


def prune(
    model: str,
    flops: str,
    *,
    out: Path | str | None = None,
    bench_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> RunDir:
    """Runs the whole chain and returns the run directory; continues a run that lies there.

    Args:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        flops: The budget: "211M", "1.04G" or "50%" of the full network's multiply-adds.
        out: The run directory; "runs/MODEL-FLOPS" by default.
        bench_options: What `bench` takes beside the run (batches, threads, seconds).
        **options: What `search` takes beside these.

    Raises:
        DmcpError: Something asked for cannot be had; found before any training.
    """
    from dmcp_deploy.export.to_onnx import export_onnx  # noqa: F401  its libraries must be there

    run = search(model, flops, out=out, **options)
    compute = options.get("compute") or Compute()
    for stage in (slice, train, export):
        stage(run.path, compute=compute)
    bench(run.path, compute=compute, **(bench_options or {}))
    return run


def search(
    model: str,
    flops: str,
    *,
    out: Path | str | None = None,
    data: str | None = None,
    width_mult: float = 1.0,
    input_size: int = 224,
    train_size: int | None = None,
    method: str = "dmcp",
    sampling: str = "expected",
    align: int | None = None,
    weights: str | None = None,
    recipe: str | None = None,
    search_epochs: float | None = None,
    train_epochs: float | None = None,
    batch_size: int | None = None,
    init: str = "scratch",
    distill: bool = False,
    seed: int = 0,
    precision: str = "auto",
    max_steps: int | None = None,
    compute: Compute | None = None,
) -> RunDir:
    """Finds the channel plan of a network for a budget; returns the run directory.

    Args:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        flops: The budget: "211M", "1.04G" or "50%" of the full network's multiply-adds.
        out: The run directory; "runs/MODEL-FLOPS" by default.
        data: An image folder, a data set's name, or None for the embedded default.
        width_mult: The full network's width multiplier.
        input_size: Side of the deployed input in pixels; MACs are counted there.
        train_size: Side of the training images; the recipe's, or the deployed size.
        method: The search method.
        sampling: "expected" or "markov", for DMCP.
        align: Widths are multiples of this where the group is larger; None is 8.
        weights: None, "imagenet", or a file of weights to start from.
        recipe: A recipe's name or file; None chooses by the data.
        search_epochs: Epochs of both search stages, in place of the recipe's.
        train_epochs: Epochs of the pruned network, in place of the recipe's.
        batch_size: Images per step, in place of the recipe's.
        init: Where the pruned network starts from: "scratch" or "sliced".
        distill: Whether it is trained by in-place distillation.
        seed: The seed of all randomness.
        precision: "auto", "fp32" or "bf16".
        max_steps: Most steps of any training loop, for trials.
        compute: Device, workers, checkpoints, progress.

    Raises:
        DmcpError: Something asked for cannot be had; found before any training.
    """
    from dmcp_deploy.job import Job
    from dmcp_deploy.training.data import open_data
    from dmcp_deploy.training.precision import choose_precision

    compute = compute or Compute()
    _check_choices(method, sampling, init, max_steps, input_size)
    parse_budget(flops)
    chosen = _recipe(recipe, data, train_size, search_epochs, train_epochs, batch_size)
    images = open_data(data)
    default = " (the default: no --data was given)" if data is None else ""
    compute.progress.say(f"Data: {images.note}{default}")
    spec = NetworkSpec(model, width_mult, len(images.classes), (3, input_size, input_size))
    if weights is not None and weights != "imagenet":
        weights = str(Path(weights).resolve())
    request = RunRequest(
        network=spec,
        budget=flops,
        method=method,
        sampling=sampling,
        align=DEFAULT_ALIGN if align is None else align,
        data=images.name,
        data_digest=images.digest,
        weights=weights,
        recipe=chosen,
        seed=seed,
        init=init,
        distill=distill,
        precision="bf16" if choose_precision(compute.device, precision).bf16 else "fp32",
        max_steps=max_steps,
    )
    run = RunDir(Path(out) if out is not None else Path("runs") / _slug(f"{model}-{flops}"))
    return _search(Job(run, request, compute))


def slice(run_dir: Path | str, *, compute: Compute | None = None) -> RunDir:
    """Slices the trained full network of a run by its plan, and proves the result equal.

    Raises:
        DmcpError: There is no plan, or the sliced network computes something else.
    """
    from dmcp_deploy.export.slice import slice_proven
    from dmcp_deploy.job import Job
    from dmcp_deploy.training.weights import save_weights

    job = Job.resume(Path(run_dir), compute or Compute())
    if job.run.is_current("slice"):
        return job.run
    plan, network = job.plan(), job.trained_network()
    inputs, outputs = ["plan.json", "supernet.safetensors"], ["sliced.safetensors"]
    with job.run.stage("slice", inputs, outputs) as figures:
        job.exact.place(network.model)
        dense, parity = slice_proven(network, plan, job.proof_images())
        figures["parity"] = parity.to_json()
        figures["params"] = sum(p.numel() for p in dense.parameters())
        _check_count(figures["params"], plan.params)
        if job.run.file("supernet.safetensors").exists() or job.request.weights:
            job.recalibrate(dense, "recalibrate sliced")
            figures["accuracy"] = job.evaluate(dense, "evaluate sliced").to_json()
        save_weights(dense, job.run.file("sliced.safetensors"))
    return job.run


def train(run_dir: Path | str, *, compute: Compute | None = None) -> RunDir:
    """Trains the pruned network of a run: from scratch, from sliced weights, or distilled.

    Raises:
        DmcpError: There is no plan yet, or a checkpoint is damaged.
    """
    from dmcp_deploy.job import Job
    from dmcp_deploy.training.weights import save_weights

    job = Job.resume(Path(run_dir), compute or Compute())
    if job.run.is_current("train"):
        return job.run
    job.plan()
    with job.run.stage("train", ["plan.json"], ["dense.safetensors"]) as figures:
        dense, steps = _trained_dense(job)
        figures["steps"] = steps
        figures["accuracy"] = job.evaluate(dense, "evaluate pruned").to_json()
        figures["majority_share"] = job.data.majority_share
        save_weights(dense, job.run.file("dense.safetensors"))
    return job.run


def export(
    run_dir: Path | str,
    *,
    batch: int | None = None,
    opset: int = 20,
    compute: Compute | None = None,
) -> RunDir:
    """Exports the pruned network of a run, and the full one to compare with, to ONNX.

    Args:
        run_dir: The run directory.
        batch: Images per call; None leaves the batch dynamic.
        opset: ONNX operator set.
        compute: Device and progress.

    Raises:
        DmcpError: The network is not trained yet, or ONNX Runtime computes something else.
    """
    from dmcp_deploy.job import Job

    job = Job.resume(Path(run_dir), compute or Compute())
    asked = {"batch": batch, "opset": opset}
    if job.run.is_current("export") and job.run.figures("export").get("asked") == asked:
        return job.run
    plan, dense = job.plan(), load(run_dir)
    with job.run.stage(
        "export", ["plan.json", "dense.safetensors"], ["model.onnx", "original.onnx"]
    ) as figures:
        figures["asked"] = asked
        full = job.trained_network().model
        for name, model, macs in (
            ("model", dense, plan.macs),
            (ORIGINAL, full, plan.full_macs),
        ):
            job.compute.progress.say(f"Exporting {name}.onnx")
            figures[name] = _export_one(job, name, model, macs, batch, opset)
    return job.run


def bench(
    *artifacts: Path | str,
    batches: Sequence[int] = (1,),
    threads: int = 0,
    seconds: float = 10.0,
    save: Path | str | None = None,
    compute: Compute | None = None,
) -> BenchRecord:
    """Measures ONNX files, or a run's original and pruned network, in interleaved rounds.

    Args:
        *artifacts: ONNX files or run directories; all are compared with the first network.
        batches: Images per call.
        threads: Threads of ONNX Runtime; 0 leaves the number to it.
        seconds: Measuring time per batch size.
        save: Where to write the record; a single run directory keeps its own bench.json.
        compute: Where to report progress.

    Raises:
        DmcpError: A file is missing, or the networks cannot be compared.
    """
    from dmcp_deploy.bench.measure import measure_onnx

    compute = compute or Compute()
    files = _onnx_files([Path(a) for a in artifacts])
    record = measure_onnx(
        files, batches=batches, threads=threads, seconds=seconds, progress=compute.progress
    )
    if len(artifacts) == 1 and Path(artifacts[0]).is_dir():
        run = RunDir(Path(artifacts[0]))
        with run.stage("bench", ["model.onnx", "original.onnx"], ["bench.json"]) as figures:
            figures["networks"] = list(files)
            record.save(run.file("bench.json"))
    if save is not None:
        record.save(Path(save))
    return record


def load(run_dir: Path | str) -> nn.Module:
    """Returns the pruned, trained network of a run in evaluation mode, from plan and weights.

    Raises:
        DmcpError: The run has no plan or no trained weights yet, or they do not fit.
    """
    from dmcp_deploy.network.models import build_network
    from dmcp_deploy.network.slicing import slice_network
    from dmcp_deploy.training.weights import load_weights, read_tensors

    folder = Path(run_dir)
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


def _search(job: Job) -> RunDir:
    from dmcp_deploy.search.run import search_plan

    network = job.new_network()
    problem = job.problem(network)
    job.run.begin(job.request)
    if job.run.file("plan.json").exists() and "search" in job.run.stages():
        job.plan()
        return job.run
    model = job.request.network.model
    job.compute.progress.say(
        f"Search: {model} has {format_macs(problem.cost.full_macs)}, the budget"
        f" is {format_macs(problem.budget_macs)} multiply-adds"
    )
    with job.run.stage("search", [], ["supernet.safetensors"]) as figures:
        plan, result = search_plan(job.request.method, problem, job.request.align)
        figures.update(result.figures)
        figures["macs"], figures["budget_macs"] = plan.macs, problem.budget_macs
        if result.trained:
            _keep_supernet(job, network.model, figures)
        plan.save(job.run.file("plan.json"))
    return job.run


def _keep_supernet(job: Job, model: nn.Module, figures: dict[str, Any]) -> None:
    from dmcp_deploy.training.weights import save_weights

    job.recalibrate(model, "recalibrate full")
    figures["full_accuracy"] = job.evaluate(model, "evaluate full").to_json()
    save_weights(model, job.run.file("supernet.safetensors"))


def _trained_dense(job: Job) -> tuple[nn.Module, int]:
    """Returns the trained pruned network and the steps it took."""
    from dmcp_deploy.network.slicing import slice_network
    from dmcp_deploy.network.supernet import Supernet
    from dmcp_deploy.training.data import steps_per_epoch
    from dmcp_deploy.training.dense import DenseTask, DistillTask
    from dmcp_deploy.training.loop import run_loop

    schedule, plan = job.recipe.train, job.plan()
    steps = round(schedule.epochs * steps_per_epoch(job.data, schedule.batch_size))
    steps = max(1, steps if job.request.max_steps is None else min(steps, job.request.max_steps))
    network = job.trained_network() if job.request.init == "sliced" else job.new_network()
    token = f"{job.request.token()}:{digest_file(job.run.file('plan.json'))}"
    dense = slice_network(network, plan.groups)
    if job.request.distill:
        task = DistillTask(Supernet(network), plan.groups, job.recipe, steps, job.precision)
    else:
        task = DenseTask(dense, job.recipe, steps, job.precision)
    run_loop(
        task,
        lambda start: job.batches(schedule, start, steps, "train"),
        job.loop_settings("train", steps, token),
        job.compute.progress,
    )
    if job.request.distill:
        dense = slice_network(network, plan.groups)
        job.recalibrate(dense, "recalibrate pruned")
    return dense, steps


def _export_one(
    job: Job, name: str, model: nn.Module, macs: int, batch: int | None, opset: int
) -> dict[str, Any]:
    import torch

    from dmcp_deploy.bench.onnx_cost import onnx_cost
    from dmcp_deploy.export.to_onnx import export_onnx
    from dmcp_deploy.export.verify import compare_outputs, require_parity
    from dmcp_deploy.runtimes.onnxruntime import OnnxSession

    path = job.run.file(f"{name}.onnx")
    model = model.cpu().eval().to(memory_format=torch.contiguous_format)
    metadata = {"model": job.request.network.model, "macs": str(macs)}
    export = export_onnx(
        model,
        path,
        input_shape=job.request.network.input_shape,
        batch=batch,
        opset=opset,
        metadata=metadata,
    )
    images = job.proof_images().cpu()[: batch or None]
    with torch.no_grad(), OnnxSession(path) as session:
        parity = compare_outputs(model(images).numpy(), session.run(images.numpy()))
    require_parity(parity, 1e-4, f"ONNX Runtime and torch on {path.name}")
    found = onnx_cost(path).macs
    if found != macs:
        raise DmcpError(f"{path} has {found} multiply-adds where the plan has {macs}.")
    return {
        "parity": parity.to_json(),
        "onnx_bytes": export.onnx_bytes,
        "opset": export.opset,
        "simplified": export.simplified,
        "macs": found,
    }


def _onnx_files(artifacts: Sequence[Path]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for artifact in artifacts:
        if artifact.is_dir():
            prefix = "" if len(artifacts) == 1 else f"{artifact.name}/"
            if not (artifact / "model.onnx").exists():
                raise DmcpError(f"{artifact} has no model.onnx yet: run export first.")
            files[f"{prefix}{ORIGINAL}"] = artifact / "original.onnx"
            files[f"{prefix}{PRUNED}"] = artifact / "model.onnx"
        else:
            name = artifact.stem if artifact.stem not in files else str(artifact)
            files[name] = artifact
    return files


def _check_choices(
    method: str, sampling: str, init: str, max_steps: int | None, input_size: int
) -> None:
    from dmcp_deploy.registry import choose
    from dmcp_deploy.search.run import find_method

    find_method(method)
    choose("--sampling", sampling, ("expected", "markov"))
    choose("--init", init, ("scratch", "sliced"))
    if max_steps is not None and max_steps < 1:
        raise DmcpError(f"--max-steps {max_steps} is too small: it must be at least 1.")
    if input_size < 16:
        raise DmcpError(f"--input-size {input_size} is too small: it must be at least 16.")


def _recipe(
    name: str | None,
    data: str | None,
    train_size: int | None,
    search_epochs: float | None,
    train_epochs: float | None,
    batch_size: int | None,
) -> dict[str, Any]:
    from dmcp_deploy.training.recipe import load_recipe, recipe_to_json

    recipe = load_recipe(name or ("demo" if data is None else "small"))
    search, train = recipe.search, recipe.train
    if search_epochs is not None:
        search = replace(search, epochs=search_epochs)
    if train_epochs is not None:
        train = replace(train, epochs=train_epochs)
    if batch_size is not None:
        search, train = (replace(s, batch_size=batch_size) for s in (search, train))
    changed = replace(recipe, search=search, train=train)
    if train_size is not None:
        changed = replace(changed, train_size=train_size)
    return recipe_to_json(changed)


def _check_count(params: int, planned: int) -> None:
    if params != planned:
        raise DmcpError(f"The sliced network has {params} parameters, and its plan {planned}.")


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)
