"""Commands: typed options, one library call, an artifact's path."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dmcp_deploy import __version__
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.extras import missing_library
from dmcp_deploy.registry import METHODS, near_matches

if TYPE_CHECKING:
    from dmcp_deploy.request import Compute

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Commands(click.Group):
    """Turns what the user can mend into one sentence, and names near matches of commands."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DmcpError as err:
            raise click.ClickException(_one_line(err)) from err
        except ModuleNotFoundError as err:
            problem = missing_library(err.name or "")
            if problem is None:
                raise
            raise click.ClickException(_one_line(problem)) from err
        except KeyboardInterrupt:
            click.echo("\nStopped; the same command continues from the last checkpoint.", err=True)
            sys.exit(130)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            raise click.UsageError(
                f"There is no command {args[0]!r}: choose one of {', '.join(known)}"
                f"{near_matches(args[0], known)}",
                ctx,
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dmcp-deploy")
def main() -> None:
    """Search, slice and measure channel-pruned CNNs for edge GPUs.

    FLOPs budgets mean multiply-adds of convolution and linear layers for one image, the
    convention of the papers: MobileNetV2 has 300M, ResNet-50 4.09G.
    """


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


_model_options = _options(
    click.option("--model", required=True, help="torchvision name, timm:NAME or module:function."),
    click.option("--width-mult", default=1.0, show_default=True, help="Width of the full network."),
    click.option("--input-size", default=224, show_default=True, help="Deployed side in pixels."),
)
_compute_options = _options(
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option("--workers", default=0, show_default=True, help="Processes that load images."),
    click.option(
        "--checkpoint-seconds", default=60.0, show_default=True, help="Time between checkpoints."
    ),
    click.option("--tensorboard", is_flag=True, help="Write TensorBoard files as well."),
)
_search_options = _options(
    click.option("--flops", required=True, help="Budget in multiply-adds: 211M, 1.04G or 50%."),
    click.option("--data", help="Image folder (train/, val/), elpv, fashion-mnist, torchvision:X."),
    click.option("--out", type=click.Path(path_type=Path), help="Run directory."),
    click.option(
        "--method", default="dmcp", show_default=True, help=f"One of {', '.join(METHODS)}."
    ),
    click.option(
        "--sampling", default="expected", show_default=True, help="DMCP: expected or markov."
    ),
    click.option(
        "--align", default="auto", show_default=True, help="Widths are multiples of it; auto = 8."
    ),
    click.option("--weights", default="none", show_default=True, help="none, imagenet or a file."),
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
    click.option(
        "--init", default="scratch", show_default=True, help="Pruned start: scratch or sliced."
    ),
    click.option("--distill", is_flag=True, help="Train by in-place distillation."),
    click.option("--precision", default="auto", show_default=True, help="auto, fp32 or bf16."),
    click.option("--seed", default=0, show_default=True, help="Seed of all randomness."),
    click.option("--max-steps", type=int, help="Most steps of any loop, for a trial."),
)
_bench_options = _options(
    click.option("--batch", "batches", default="1", show_default=True, help="Sizes, as in 1,8."),
    click.option("--threads", default=0, show_default=True, help="0 leaves it to the runtime."),
    click.option("--seconds", default=10.0, show_default=True, help="Per batch size."),
)


@main.command()
@_model_options
@_search_options
@_bench_options
@_compute_options
def prune(batches: str, threads: int, seconds: float, **options: Any) -> None:
    """Search, slice, train, export and measure: the whole chain.

    Run again on the same --out, it continues at the first thing that is missing.
    """
    from dmcp_deploy import pipeline, summary

    bench_options = {"batches": _batches(batches), "threads": threads, "seconds": seconds}
    run = pipeline.prune(bench_options=bench_options, **_library_options(options))
    _print(summary.summarize(run))


@main.command()
@_model_options
@_search_options
@_compute_options
def search(**options: Any) -> None:
    """Search the channel plan of a network for a budget."""
    from dmcp_deploy import pipeline, summary

    run = pipeline.search(**_library_options(options))
    _print(summary.summarize(run))
    _print(str(run.file("plan.json")))


_run_argument = click.argument("run_dir", type=click.Path(path_type=Path))


@main.command("slice")
@_run_argument
@_compute_options
def slice_command(run_dir: Path, **options: Any) -> None:
    """Slice a run's full network by its plan; prove both equal."""
    from dmcp_deploy import pipeline

    run = pipeline.slice(run_dir, compute=_compute(options))
    parity = run.figures("slice")["parity"]["max_rel"]
    _print(f"The supernet at these widths and the sliced network differ by {parity:.1e}.")
    _print(str(run.file("sliced.safetensors")))


@main.command()
@_run_argument
@_compute_options
def train(run_dir: Path, **options: Any) -> None:
    """Train a run's pruned network."""
    from dmcp_deploy import pipeline

    run = pipeline.train(run_dir, compute=_compute(options))
    _print(f"top-1 {run.figures('train')['accuracy']['top1']:.2%}")
    _print(str(run.file("dense.safetensors")))


@main.command()
@_run_argument
@click.option("--batch", default="dynamic", show_default=True, help="A number, or dynamic.")
@click.option("--opset", default=20, show_default=True, help="ONNX operator set.")
@_compute_options
def export(run_dir: Path, batch: str, opset: int, **options: Any) -> None:
    """Export a run's pruned and full network to ONNX; check them in ONNX Runtime."""
    from dmcp_deploy import pipeline

    run = pipeline.export(
        run_dir, batch=_fixed_batch(batch), opset=opset, compute=_compute(options)
    )
    parity = run.figures("export")["model"]["parity"]["max_rel"]
    _print(f"ONNX Runtime and torch differ by {parity:.1e}.")
    _print(str(run.file("model.onnx")))


@main.command()
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@_bench_options
@click.option("--save", type=click.Path(path_type=Path), help="Write the record here as well.")
def bench(
    artifacts: tuple[Path, ...], batches: str, threads: int, seconds: float, save: Path | None
) -> None:
    """Measure ONNX files or run directories, interleaved, in ONNX Runtime."""
    from dmcp_deploy import pipeline
    from dmcp_deploy.bench.record import format_table
    from dmcp_deploy.progress import TerminalProgress
    from dmcp_deploy.request import Compute

    record = pipeline.bench(
        *artifacts,
        batches=_batches(batches),
        threads=threads,
        seconds=seconds,
        save=save,
        compute=Compute(progress=TerminalProgress()),
    )
    click.echo(format_table(record))


@main.command()
@_model_options
@click.option("--classes", default=1000, show_default=True, help="Length of the logits.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def groups(as_json: bool, **options: Any) -> None:
    """List the channel groups of a network, and why some stay whole."""
    from dmcp_deploy import listing

    network = listing.network(**options)
    if as_json:
        click.echo(json.dumps(listing.describe_groups(network)))
    else:
        click.echo(listing.groups_table(network))


@main.command()
@_model_options
@click.option("--classes", default=1000, show_default=True, help="Length of the logits.")
@click.option("--plan", type=click.Path(path_type=Path), help="Count at this plan's widths.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def flops(plan: Path | None, as_json: bool, **options: Any) -> None:
    """Count multiply-adds, parameters and activation bytes, layer by layer."""
    from dmcp_deploy import listing

    counted = listing.flops(plan=plan, **options)
    click.echo(json.dumps(counted) if as_json else listing.flops_table(counted))


def _library_options(options: dict[str, Any]) -> dict[str, Any]:
    """Returns command-line options as the library takes them."""
    compute = _compute(options)
    rest = {key: value for key, value in options.items() if key not in _COMPUTE_KEYS}
    rest["align"] = _align(rest["align"])
    rest["weights"] = None if rest["weights"] == "none" else rest["weights"]
    return {**rest, "compute": compute}


_COMPUTE_KEYS = ("device", "workers", "checkpoint_seconds", "tensorboard")


def _compute(options: dict[str, Any]) -> Compute:
    from dmcp_deploy.progress import TerminalProgress
    from dmcp_deploy.request import Compute

    return Compute(
        device=options["device"],
        workers=options["workers"],
        checkpoint_s=options["checkpoint_seconds"],
        tensorboard=options["tensorboard"],
        progress=TerminalProgress(),
    )


def _align(text: str) -> int | None:
    if text == "auto":
        return None
    if not _is_count(text):
        raise DmcpError(f"--align {text!r} is not understood: give auto or a number from 1 on.")
    return int(text)


def _fixed_batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not _is_count(text):
        raise DmcpError(f"--batch {text!r} is not understood: give dynamic or a number from 1 on.")
    return int(text)


def _batches(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(map(_is_count, parts)):
        raise DmcpError(f"--batch {text!r} is not understood: give numbers such as 1,8.")
    return tuple(int(part) for part in parts)


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) <= 9 and int(text) > 0


def _print(text: str) -> None:
    """Prints a result; of several processes that torchrun has started, the first alone does."""
    if "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0":
        click.echo(text)


def _one_line(err: DmcpError) -> str:
    """Returns an error's sentence; what a library said within it may come in lines."""
    return " ".join(str(err).split())
