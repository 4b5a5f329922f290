"""The command line's options, and how their text becomes values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dmcp_deploy.cli.groups import WORDS
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.registry import BENCH_RUNTIMES, METHODS

if TYPE_CHECKING:
    from dmcp_deploy.rundir.request import Compute

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _recipe_defaults(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Lets what a recipe file says of the run stand in for options that are not given."""
    if value is not None:
        from dmcp_deploy.training.recipe import recipe_run

        ctx.default_map = recipe_run(value)
    return value


MODEL_HELP = "torchvision name, timm:NAME or module:function."

size_options = _options(
    click.option("--width-mult", default=1.0, show_default=True, help="Width of the full network."),
    click.option("--input-size", default=224, show_default=True, help="Deployed side in pixels."),
)
model_options = _options(click.option("--model", required=True, help=MODEL_HELP), size_options)
align_option = click.option(
    "--align", default="auto", show_default=True, help="Widths are multiples of it; auto = 8."
)
data_options = _options(
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option("--workers", default=0, show_default=True, help="Processes that load images."),
)
compute_options = _options(
    data_options,
    click.option(
        "--checkpoint-seconds", default=60.0, show_default=True, help="Time between checkpoints."
    ),
    click.option("--tensorboard", is_flag=True, help="Write TensorBoard files as well."),
)
recipe_options = _options(
    click.option(
        "--data",
        help="Image folder (train/, val/), elpv, fashion-mnist, torchvision:X, webdataset:X.",
    ),
    click.option(
        "--sampling", default="expected", show_default=True, help="DMCP: expected or markov."
    ),
    align_option,
    click.option("--train-size", type=int, help="Side of the training images in pixels."),
    click.option(
        "--recipe",
        is_eager=True,
        callback=_recipe_defaults,
        help="Hyper-parameters: a name, or a JSON file, which may set model and budget too.",
    ),
    click.option("--search-epochs", type=float, help="Epochs of both search stages."),
    click.option("--epochs", "train_epochs", type=float, help="Epochs of the pruned network."),
    click.option("--batch-size", type=int, help="Images per step and process."),
    click.option("--precision", default="auto", show_default=True, help="auto, fp32 or bf16."),
    click.option("--max-steps", type=int, help="Most steps of any loop, for a trial."),
)
search_options = _options(
    click.option(
        "--flops", required=True, help="Budget in multiply-adds: 211M, 1.04G or 50%; or several."
    ),
    click.option("--out", type=click.Path(path_type=Path), help="Run directory, or their folder."),
    click.option(
        "--method", default="dmcp", show_default=True, help=f"One of {', '.join(METHODS)}."
    ),
    click.option("--weights", default="none", show_default=True, help="none, imagenet or a file."),
    recipe_options,
    click.option(
        "--init", default="scratch", show_default=True, help="Pruned start: scratch or sliced."
    ),
    click.option("--distill", is_flag=True, help="Train by in-place distillation."),
    click.option(
        "--augment-on", default="host", show_default=True, help="Random crops: host or device."
    ),
    click.option(
        "--sync-bn", is_flag=True, help="Several processes: batch norms over all their images."
    ),
    click.option(
        "--supernet",
        type=click.Path(path_type=Path),
        help="Take over the first stage of a run for another budget.",
    ),
    click.option("--seed", default=0, show_default=True, help="Seed of all randomness."),
)
_launch_options = _options(
    click.option("--gpus", type=click.IntRange(min=1), help="Share the work of so many GPUs."),
    click.option(
        "--max-restarts",
        type=click.IntRange(min=0),
        default=3,
        show_default=True,
        help="With --gpus: new starts from the last checkpoint after a process was lost.",
    ),
)


def launch_options(command: _Command) -> _Command:
    """Adds --gpus, by which a command runs in several processes that are started here."""

    @functools.wraps(command)
    def run(*args: Any, gpus: int | None, max_restarts: int, **options: Any) -> Any:
        from dmcp_deploy.cli import launch
        from dmcp_deploy.machine.launched import is_launched

        if gpus is None or is_launched():
            launch.check_launched(gpus)
            return command(*args, **options)
        ctx = click.get_current_context()
        words, device = ctx.meta[WORDS], options["device"]
        ctx.exit(launch.launch_on_gpus(words, gpus, max_restarts, device))

    return _launch_options(run)  # type: ignore[return-value]


compare_options = _options(
    click.option("--flops", required=True, help="Budgets: 25%,10% or 300M,211M."),
    click.option(
        "--methods",
        default="all",
        show_default=True,
        help=f"Some of {', '.join(METHODS)}; a star behind one distils: dmcp*.",
    ),
    click.option("--seeds", default=3, show_default=True, help="How many: 0, 1, ..."),
    click.option("--jobs", default=1, show_default=True, help="Runs at a time."),
    click.option("--out", type=click.Path(path_type=Path), help="Folder of the runs and the page."),
    click.option(
        "--weights",
        default="trained",
        show_default=True,
        help="What searches start from: trained (here, once a seed), none, imagenet or a file.",
    ),
    recipe_options,
    click.option(
        "--init", default="sliced", show_default=True, help="Pruned start: scratch or sliced."
    ),
)
classes_option = click.option(
    "--classes",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Length of the logits.",
)
calibration_option = click.option(
    "--calibration", default=64, show_default=True, help="Images INT8 and FP8 are calibrated on."
)


def bench_options_for(seconds: float) -> Callable[[_Command], _Command]:
    """Returns the options of a measurement that takes so many seconds if not told otherwise."""
    return _options(
        click.option(
            "--batch", "batches", default="1", show_default=True, help="Sizes, as in 1,8."
        ),
        click.option(
            "--threads",
            default=0,
            show_default=True,
            help="Pinned to cores; 0: the runtime's choice.",
        ),
        click.option("--seconds", default=seconds, show_default=True, help="Per batch size."),
        click.option(
            "--runtime",
            default="onnxruntime",
            show_default=True,
            help=f"One of {', '.join(BENCH_RUNTIMES)}.",
        ),
    )


bench_options = bench_options_for(10.0)
gpu_options = _options(
    click.option("--graph/--no-graph", default=None, help="GPU: as a CUDA graph, if it can."),
    click.option("--transfers/--no-transfers", default=False, help="GPU: count copies as well."),
    click.option("--precision", help="Of the engines that tensorrt builds; fp16 if not given."),
)
engine_options = _options(
    click.option(
        "--runtime", default="auto", show_default=True, help="tensorrt, tensorrt-rtx, or auto."
    ),
    click.option(
        "--precision", default="fp16", show_default=True, help="As in fp32,fp16,bf16,int8."
    ),
    click.option("--batch", default="1", show_default=True, help="One static engine each: 1,8."),
    click.option("--dynamic-batch", help="One engine for a range instead: MIN,OPT,MAX."),
    click.option("--gpu-arch", default="", help="RTX: GPUs to build for, as in sm86,sm89."),
    click.option("--dla", type=int, help="TensorRT on Orin: the DLA core to build for."),
    click.option("--timing-cache", type=click.Path(path_type=Path), help="TensorRT: kept timings."),
    click.option("--optimization-level", type=int, help="0 (quick build) to 5 (longest search)."),
    click.option(
        "--calibration-data",
        type=click.Path(path_type=Path),
        help="Images for an ONNX file (.npy).",
    ),
    click.option("--out", type=click.Path(path_type=Path), help="Folder of the engines."),
)
probe_options = _options(
    size_options,
    classes_option,
    align_option,
    click.option("--seed", default=0, show_default=True, help="Seed of the widths."),
)


def library_options(options: dict[str, Any]) -> dict[str, Any]:
    """Returns a run's command-line options as the library takes them."""
    compute = compute_of(options)
    rest = {key: value for key, value in options.items() if key not in COMPUTE_KEYS}
    rest["align"] = align_of(rest["align"])
    rest["weights"] = None if rest["weights"] == "none" else rest["weights"]
    return {**rest, "compute": compute}


#: Options of `compute_options` -> fields of `Compute`.
COMPUTE_KEYS = {
    "device": "device",
    "workers": "workers",
    "checkpoint_seconds": "checkpoint_s",
    "tensorboard": "tensorboard",
    "supernet": "supernet",
}


def compute_of(options: dict[str, Any]) -> Compute:
    """Returns how to compute, from those of its options that a command has."""
    from dmcp_deploy.progress import TerminalProgress
    from dmcp_deploy.rundir.request import Compute

    given = {field: options[key] for key, field in COMPUTE_KEYS.items() if key in options}
    return Compute(**given, progress=TerminalProgress())


def fixed_batch(text: str) -> int | None:
    """Returns the number in a --batch of export; None for "dynamic"."""
    if text == "dynamic":
        return None
    if not _is_count(text):
        raise DmcpError(f"--batch {text!r} is not understood: give dynamic or a number from 1 on.")
    return int(text)


def batch_sizes(text: str, option: str = "--batch") -> tuple[int, ...]:
    """Returns the numbers in a list such as "1,8"."""
    parts = [part.strip() for part in text.split(",")]
    if not all(map(_is_count, parts)):
        raise DmcpError(f"{option} {text!r} is not understood: give numbers such as 1,8.")
    return tuple(int(part) for part in parts)


def names_in(text: str) -> tuple[str, ...]:
    """Returns the names in a list such as "fp16,int8"."""
    return tuple(part.strip().lower() for part in text.split(",")) if text else ()


def align_of(text: str) -> int | None:
    """Returns the number in a --align; None for "auto"."""
    if text == "auto":
        return None
    if not _is_count(text):
        raise DmcpError(f"--align {text!r} is not understood: give auto or a number from 1 on.")
    return int(text)


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) <= 9 and int(text) > 0
