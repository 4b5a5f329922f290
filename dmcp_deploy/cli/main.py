"""Commands: typed options, one library call, an artifact's path."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from dmcp_deploy import __version__
from dmcp_deploy.cli.groups import Commands
from dmcp_deploy.cli.options import (
    COMPUTE_KEYS,
    batch_sizes,
    bench_options,
    bench_options_for,
    calibration_option,
    classes_option,
    compare_options,
    compute_of,
    compute_options,
    data_options,
    engine_options,
    fixed_batch,
    gpu_options,
    launch_options,
    library_options,
    model_options,
    names_in,
    search_options,
)
from dmcp_deploy.cli.plan import plan_commands
from dmcp_deploy.cli.table import table_commands
from dmcp_deploy.machine.launched import is_first
from dmcp_deploy.rundir.stages import EXPORT, SLICE, TRAIN

if TYPE_CHECKING:
    pass

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dmcp-deploy")
def main() -> None:
    """Search, slice and measure channel-pruned CNNs for edge GPUs.

    FLOPs budgets mean multiply-adds of convolution and linear layers for one image, the
    convention of the papers: MobileNetV2 has 300M, ResNet-50 4.09G.
    """


@main.command()
@model_options
@search_options
@bench_options
@compute_options
@click.option("--engine", help="Build engines as well: tensorrt, tensorrt-rtx or auto.")
@click.option("--engine-precision", default="fp16", show_default=True, help="As in fp16,int8.")
@launch_options
def prune(
    batches: str,
    threads: int,
    seconds: float,
    runtime: str,
    engine: str | None,
    engine_precision: str,
    **options: Any,
) -> None:
    """Search, slice, train, export and measure: the whole chain.

    Run again on the same --out, it continues at the first thing that is missing.
    """
    from dmcp_deploy.run import api, summary
    from dmcp_deploy.run.budgets import for_each_budget

    sizes = batch_sizes(batches)
    engines = {"runtime": engine, "precisions": names_in(engine_precision), "batches": sizes}
    runs = for_each_budget(
        api.prune,
        bench_options={
            "batches": sizes,
            "threads": threads,
            "seconds": seconds,
            "runtime": runtime,
        },
        engine_options=engines if engine else None,
        **library_options(options),
    )
    for run in runs:
        _print(summary.summarize(run))


@main.command()
@model_options
@search_options
@compute_options
@launch_options
def search(**options: Any) -> None:
    """Search the channel plan of a network for a budget."""
    from dmcp_deploy.run import api, summary
    from dmcp_deploy.run.budgets import for_each_budget

    for run in for_each_budget(api.search, **library_options(options)):
        _print(summary.summarize(run))
        _print(str(run.file("plan.json")))


_run_argument = click.argument("run_dir", type=click.Path(path_type=Path))


@main.command("slice")
@_run_argument
@compute_options
def slice_command(run_dir: Path, **options: Any) -> None:
    """Slice a run's full network by its plan; prove both equal."""
    from dmcp_deploy.run import api

    run = api.slice(run_dir, compute=compute_of(options))
    parity = run.figures(SLICE)["parity"]["max_rel"]
    _print(f"The supernet at these widths and the sliced network differ by {parity:.1e}.")
    _print(str(run.file("sliced.safetensors")))


@main.command()
@_run_argument
@compute_options
@launch_options
def train(run_dir: Path, **options: Any) -> None:
    """Train a run's pruned network."""
    from dmcp_deploy.run import api

    run = api.train(run_dir, compute=compute_of(options))
    _print(f"top-1 {run.figures(TRAIN)['accuracy']['top1']:.2%}")
    _print(str(run.file("dense.safetensors")))


@main.command()
@_run_argument
@click.option("--batch", default="dynamic", show_default=True, help="A number, or dynamic.")
@click.option("--opset", default=20, show_default=True, help="ONNX operator set.")
@click.option("--precision", default="", help="Also convert to and judge: fp32,fp16,bf16,int8,fp8.")
@calibration_option
@compute_options
def export(
    run_dir: Path, batch: str, opset: int, precision: str, calibration: int, **options: Any
) -> None:
    """Export a run's pruned and full network to ONNX; check them in ONNX Runtime."""
    from dmcp_deploy.run import api, summary

    run = api.export(
        run_dir,
        batch=fixed_batch(batch),
        opset=opset,
        precisions=names_in(precision),
        calibration=calibration,
        compute=compute_of(options),
    )
    parity = run.figures(EXPORT)["model"]["parity"]["max_rel"]
    _print(f"ONNX Runtime and torch differ by {parity:.1e}.")
    for line in summary.precision_lines(run):
        _print(line)
    _print(str(run.file("model.onnx")))


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@engine_options
@click.option(
    "--calibration", type=int, help="Images INT8 and FP8 are calibrated on; 64 if not done before."
)
@data_options
def engine(
    source: Path,
    precision: str,
    batch: str,
    dynamic_batch: str | None,
    gpu_arch: str,
    calibration: int | None,
    **options: Any,
) -> None:
    """Build TensorRT engines of an ONNX file, or of a run's pruned network.

    The engine's own layers must show the precision that was asked for. TensorRT builds on the
    device itself; TensorRT-RTX also without a GPU.
    """
    from dmcp_deploy.run import api, summary

    engines = api.engine(
        source,
        precisions=names_in(precision),
        batches=batch_sizes(batch),
        dynamic_batch=batch_sizes(dynamic_batch, "--dynamic-batch") if dynamic_batch else None,
        gpu_archs=names_in(gpu_arch),
        calibration=calibration,
        compute=compute_of(options),
        **{key: value for key, value in options.items() if key not in COMPUTE_KEYS},
    )
    for path in engines:
        _print(summary.engine_line(path))


@main.command()
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@bench_options
@gpu_options
@click.option("--wide", is_flag=True, help="Show all columns.")
@click.option(
    "--layers", is_flag=True, help="Then profile every layer, at the first of the batch sizes."
)
@click.option("--save", type=click.Path(path_type=Path), help="Write the record here as well.")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    help="Gate: compare with this record, saved earlier on this machine.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Gate: compare with this older artifact, measured now as well; 4 seconds at most.",
)
@click.option("--max-regress", help="Gate: the slowdown that is allowed; 5% if not given.")
@click.option("--strict", is_flag=True, help="Gate: too noisy to tell is an error, exit code 1.")
@click.pass_context
def bench(
    ctx: click.Context,
    /,
    artifacts: tuple[Path, ...],
    batches: str,
    strict: bool,
    wide: bool,
    layers: bool,
    **options: Any,
) -> None:
    """Measure ONNX files, engines or run directories, interleaved.

    An engine runs on the GPU, in the TensorRT that built it; --runtime tensorrt builds those of
    ONNX files first, beside them, and torch runs the networks of run directories. With --baseline
    or --against, exit code 3 says that a network got slower than allowed.
    """
    from dmcp_deploy.bench.columns import format_table
    from dmcp_deploy.run import api
    from dmcp_deploy.runtimes.profile import check_profiler

    if ctx.get_parameter_source("seconds") == ParameterSource.DEFAULT:
        del options["seconds"]  # a gate has its own
    limits = {key: options.pop(key) for key in ("baseline", "against", "max_regress")}
    given = {key: value for key, value in limits.items() if value is not None}
    shared = {"batches": batch_sizes(batches), "compute": compute_of({}), **options}
    if layers:
        check_profiler(options["runtime"])
    if layers and {"baseline", "against"} & given.keys():
        raise click.UsageError("--layers is no gate: leave out --baseline and --against.", ctx)
    if {"baseline", "against"} & given.keys():
        ctx.exit(_gate(artifacts, strict, {**given, **shared}))
    if given or strict:
        raise click.UsageError("--max-regress and --strict need --baseline or --against.", ctx)
    click.echo(format_table(api.bench(*artifacts, **shared), wide))
    if layers:
        click.echo(_layers(artifacts, {k: v for k, v in shared.items() if k != "save"}))


def _layers(artifacts: tuple[Path, ...], options: dict[str, Any]) -> str:
    """Returns the table of every network's layers, after a line that parts it from another."""
    from dmcp_deploy.bench.layers.table import format_layers
    from dmcp_deploy.run.layers import bench_layers

    return f"\n{format_layers(bench_layers(*artifacts, **options))}"


def _gate(artifacts: tuple[Path, ...], strict: bool, options: dict[str, Any]) -> int:
    """Prints what a gate finds and returns the exit code."""
    from dmcp_deploy.bench.gate import format_gate
    from dmcp_deploy.run import api

    result = api.gate(*artifacts, **options)
    click.echo(format_gate(result))
    if result.is_regression:
        return 3
    return 1 if strict and result.is_noisy else 0


@main.command()
@model_options
@compare_options
@bench_options_for(4.0)
@compute_options
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    batches: str,
    threads: int,
    seconds: float,
    runtime: str,
    **options: Any,
) -> None:
    """Compare search methods at equal budgets: accuracy, latency, cost of the search.

    Every method, budget and seed is a run of its own below --out. Run again, it continues; more
    methods, budgets and seeds can be added to what lies there.
    """
    from dmcp_deploy.comparison.page import text
    from dmcp_deploy.comparison.run import compare as compare_methods

    measured = {
        "batches": batch_sizes(batches),
        "threads": threads,
        "seconds": seconds,
        "runtime": runtime,
    }
    found = compare_methods(bench_options=measured, **library_options(options))
    _print(text(found))
    ctx.exit(1 if found.failures else 0)


@main.command()
@click.argument("run_dirs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The file to write.")
@click.option("--format", "form", default="html", show_default=True, help="html, md or json.")
def report(run_dirs: tuple[Path, ...], out: Path | None, form: str) -> None:
    """Show a run as a page, or several runs side by side.

    The page goes to report.html in the run directory, that of several runs into the current
    folder; Markdown and JSON are printed unless --out names a file.
    """
    from dmcp_deploy.report.write import report_text, write_report

    if out is None and form != "html":
        click.echo(report_text(run_dirs, form), nl=False)
    else:
        _print(str(write_report(run_dirs, out, form)))


@main.command()
@model_options
@classes_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def groups(as_json: bool, **options: Any) -> None:
    """List the channel groups of a network, and why some stay whole."""
    from dmcp_deploy.network import listing

    network = listing.network(**options)
    if as_json:
        click.echo(json.dumps(listing.describe_groups(network)))
    else:
        click.echo(listing.groups_table(network))


@main.command()
@model_options
@classes_option
@click.option("--plan", type=click.Path(path_type=Path), help="Count at this plan's widths.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def flops(plan: Path | None, as_json: bool, **options: Any) -> None:
    """Count multiply-adds, parameters and activation bytes, layer by layer."""
    from dmcp_deploy.network import listing

    counted = listing.flops(plan=plan, **options)
    click.echo(json.dumps(counted) if as_json else listing.flops_table(counted))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Show what this machine can do, and what to install for the rest."""
    from dmcp_deploy.runtimes import doctor as clinic

    findings = clinic.examine()
    if as_json:
        click.echo(json.dumps(clinic.to_json(findings), indent=2))
    else:
        click.echo(clinic.format_findings(findings))


main.add_command(plan_commands)
main.add_command(table_commands)


def _print(text: str) -> None:
    """Prints a result; of several processes that torchrun has started, the first alone does."""
    if is_first():
        click.echo(text)
