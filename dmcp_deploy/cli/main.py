"""Commands: typed options, one library call, an artifact's path."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Annotated

import click

from dmcp_deploy import __version__
from dmcp_deploy.cli.budget import budget_arguments, certify
from dmcp_deploy.cli.command_options import (
    BenchOutput,
    Classes,
    CountedPlan,
    PruneEngines,
    ReportOptions,
    check_engine_options,
)
from dmcp_deploy.cli.gate import gate
from dmcp_deploy.cli.groups import Commands
from dmcp_deploy.cli.launch import share_work
from dmcp_deploy.cli.options import But, PathText, PrintOptions, takes_options
from dmcp_deploy.cli.plan import plan_commands
from dmcp_deploy.cli.plan_file import is_plan_file, refuse_for_runs, with_networks, written_to
from dmcp_deploy.cli.table import table_commands
from dmcp_deploy.machine.launched import is_first
from dmcp_deploy.options.compare import COMPARE_SECONDS, CompareOptions
from dmcp_deploy.options.export import BuildOptions, ExportOptions
from dmcp_deploy.options.measure import BenchOptions, Setting
from dmcp_deploy.options.network import ModelOption, NetworkOptions
from dmcp_deploy.options.plan_file import PlanExport, PlanOutput, PlanWeights
from dmcp_deploy.options.run import Compute, LaunchOptions, RunOptions, Target, TargetEngines
from dmcp_deploy.progress import TerminalProgress
from dmcp_deploy.rundir.stages import EXPORT, SLICE, TRAIN

_FOR_GPUS = ("graph", "transfers", "precision")
_NOT_A_STAGES = ("supernet", "rehearse", "certify_s")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dmcp-deploy")
def main() -> None:
    """Search, slice and measure channel-pruned CNNs for edge GPUs.

    FLOPs budgets mean multiply-adds of convolution and linear layers for one image, the
    convention of the papers: MobileNetV2 has 300M, ResNet-50 4.09G.
    """


@main.command()
@takes_options
@click.pass_context
def prune(
    ctx: click.Context,
    /,
    target: Target,
    options: RunOptions,
    measured: Annotated[BenchOptions, But(*_FOR_GPUS)],
    compute: Annotated[Compute, But("moved_data")],
    engines: PruneEngines,
    launch: LaunchOptions,
) -> None:
    """Search, slice, train, export and measure: the whole chain.

    Run again on the same --out, it continues at the first thing that is missing.
    """
    check_engine_options(ctx, engines)
    share_work(launch, compute.device)
    from dmcp_deploy.run import api, summary
    from dmcp_deploy.run.budgets import for_each_budget

    built = None
    if engines.engine:
        built = BuildOptions(
            engines.engine,
            engines.engine_precision,
            measured.batches,
            gpu_archs=engines.gpu_arch,
        )
    chain = functools.partial(api.prune, bench_options=measured, engine_options=built)
    asked = budget_arguments(ctx, target, target, measured.batches)
    for run in for_each_budget(
        chain, target.model, **asked, out=target.out, options=options, compute=compute
    ):
        _print(summary.summarize(run))


@main.command()
@takes_options
@click.pass_context
def search(
    ctx: click.Context,
    /,
    target: Target,
    options: RunOptions,
    setting: Annotated[Setting, But("precision")],
    compute: Annotated[Compute, But("moved_data")],
    launch: LaunchOptions,
) -> None:
    """Search the channel plan of a network for a budget.

    --runtime, --threads and --batch are of the target that --latency is for.
    """
    share_work(launch, compute.device)
    from dmcp_deploy.run import api, summary
    from dmcp_deploy.run.budgets import for_each_budget

    asked = budget_arguments(ctx, target, target, (setting.batch,))
    for run in for_each_budget(
        api.search, target.model, **asked, out=target.out, options=options, compute=compute
    ):
        _print(summary.summarize(run))
        _print(str(run.file("plan.json")))


_SLICED = "The supernet at these widths and the sliced network differ by {:.1e}."
_run_argument = click.argument("run_dir", type=PathText())


@main.command("slice")
@_run_argument
@takes_options
def slice_command(
    run_dir: Path, compute: Annotated[Compute, But(*_NOT_A_STAGES)], asked: PlanOutput
) -> None:
    """Slice the full network of a run, or of a plan file, by the plan; prove both equal."""
    if is_plan_file(run_dir):
        from dmcp_deploy.run.plan_files import slice_plan

        out = written_to(run_dir, asked, ".safetensors")
        difference = slice_plan(run_dir, asked.weights, out, compute.progress)
        if difference is not None:
            _print(_SLICED.format(difference.max_rel))
        _print(str(out))
        return
    refuse_for_runs(run_dir, asked)
    from dmcp_deploy.run import api

    run = api.slice(run_dir, compute=compute)
    parity = run.figures(SLICE)["parity"]["max_rel"]
    _print(_SLICED.format(parity))
    _print(str(run.file("sliced.safetensors")))


@main.command()
@_run_argument
@takes_options
def train(
    run_dir: Path, compute: Annotated[Compute, But(*_NOT_A_STAGES)], launch: LaunchOptions
) -> None:
    """Train a run's pruned network."""
    share_work(launch, compute.device)
    from dmcp_deploy.run import api

    run = api.train(run_dir, compute=compute)
    _print(f"top-1 {run.figures(TRAIN)['accuracy']['top1']:.2%}")
    _print(str(run.file("dense.safetensors")))


@main.command()
@_run_argument
@takes_options
def export(
    run_dir: Path,
    options: ExportOptions,
    compute: Annotated[Compute, But(*_NOT_A_STAGES)],
    asked: PlanExport,
) -> None:
    """Export a run's pruned and full network to ONNX; check them in ONNX Runtime.

    Of a plan file, the pruned network with given or random weights.
    """
    if is_plan_file(run_dir):
        from dmcp_deploy.export.precisions import read_images
        from dmcp_deploy.run.plan_files import export_plan

        images = asked.calibration_data
        evidence = None if images is None else read_images(images, options.calibration_method)
        out = written_to(run_dir, asked, ".onnx")
        figures = export_plan(run_dir, asked.weights, out, options, evidence, compute.progress)
        _print(f"ONNX Runtime and torch differ by {figures['parity']['max_rel']:.1e}.")
        _print(str(out))
        return
    refuse_for_runs(run_dir, asked)
    from dmcp_deploy.run import api, summary

    run = api.export(run_dir, options=options, compute=compute)
    parity = run.figures(EXPORT)["model"]["parity"]["max_rel"]
    _print(f"ONNX Runtime and torch differ by {parity:.1e}.")
    for line in summary.precision_lines(run):
        _print(line)
    _print(str(run.file("model.onnx")))


@main.command()
@click.argument("source", type=PathText())
@takes_options
def engine(
    source: Path,
    options: BuildOptions,
    compute: Annotated[Compute, But("checkpoint_s", "tensorboard", *_NOT_A_STAGES)],
    asked: PlanWeights,
) -> None:
    """Build TensorRT engines of an ONNX file, or of the pruned network of a run or plan file.

    The engine's own layers must show the precision that was asked for. TensorRT builds on the
    device itself; TensorRT-RTX also without a GPU.
    """
    from dmcp_deploy.run import api, summary

    (source,) = with_networks((source,), asked, compute.progress, original=False)
    for path in api.engine(source, options=options, compute=compute):
        _print(summary.engine_line(path))


@main.command()
@click.argument("artifacts", nargs=-1, required=True, type=PathText())
@takes_options
@click.pass_context
def bench(
    ctx: click.Context,
    /,
    artifacts: tuple[Path, ...],
    options: BenchOptions,
    output: BenchOutput,
    asked: PlanWeights,
) -> None:
    """Measure ONNX files, engines, run directories or plan files, interleaved.

    An engine runs on the GPU, in the TensorRT that built it; --runtime tensorrt builds those of
    ONNX files first, beside them, and torch runs the networks of run directories. With --baseline
    or --against, exit code 3 says that a network got slower than allowed.
    """
    from dmcp_deploy.bench.columns import format_table
    from dmcp_deploy.bench.layers.table import format_layers
    from dmcp_deploy.run import api
    from dmcp_deploy.run.layers import bench_layers
    from dmcp_deploy.runtimes.profile import check_profiler

    compute = Compute(progress=TerminalProgress())
    is_gate = output.baseline is not None or output.against is not None
    if output.layers:
        check_profiler(options.runtime)
    if output.layers and is_gate:
        raise click.UsageError("--layers is no gate: leave out --baseline and --against.", ctx)
    artifacts = with_networks(artifacts, asked, compute.progress, original=not is_gate)
    if is_gate:
        ctx.exit(gate(ctx, artifacts, options, output, compute))
    if output.max_regress is not None or output.strict:
        raise click.UsageError("--max-regress and --strict need --baseline or --against.", ctx)
    record = api.bench(*artifacts, save=output.save, options=options, compute=compute)
    click.echo(format_table(record, output.wide))
    if output.layers:
        layers = bench_layers(*artifacts, options=options, compute=compute)
        click.echo(f"\n{format_layers(layers)}")


_NOT_COMPARED = ("method", "weights", "init", "distill", "augment_on", "sync_bn", "seed")


@main.command()
@takes_options
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    network: ModelOption,
    asked: CompareOptions,
    engines: TargetEngines,
    shared: Annotated[RunOptions, But(*_NOT_COMPARED)],
    measured: Annotated[BenchOptions, But(*_FOR_GPUS, seconds=COMPARE_SECONDS)],
    compute: Annotated[Compute, But("supernet", "moved_data")],
) -> None:
    """Compare search methods at equal budgets: accuracy, latency, cost of the search.

    Every method, budget and seed is a run of its own below --out. Run again, it continues; more
    methods, budgets and seeds can be added to what lies there. --runtime, --threads and --batch are
    of the target that --latency is for as well.
    """
    from dmcp_deploy.comparison import run
    from dmcp_deploy.comparison.page import text

    budgets = budget_arguments(ctx, asked, engines, measured.batches)
    comparison = run.compare(
        network.model,
        **{**vars(asked), **budgets},
        options=shared,
        bench_options=measured,
        compute=compute,
    )
    _print(text(comparison))
    ctx.exit(1 if comparison.failures else 0)


@main.command()
@click.argument("run_dirs", nargs=-1, required=True, type=PathText())
@takes_options
def report(run_dirs: tuple[Path, ...], options: ReportOptions) -> None:
    """Show a run as a page, or several runs side by side.

    The page goes to report.html in the run directory, that of several runs into the current
    folder; Markdown and JSON are printed unless --out names a file.
    """
    from dmcp_deploy.report.write import report_text, write_report

    if options.out is None and options.form != "html":
        click.echo(report_text(run_dirs, options.form), nl=False)
    else:
        _print(str(write_report(run_dirs, options.out, options.form)))


_NOT_CHECKED = ("checkpoint_s", "tensorboard", *_NOT_A_STAGES, "moved_data")


@main.command()
@takes_options
@click.pass_context
def check(
    ctx: click.Context,
    /,
    network: ModelOption,
    classes: Classes,
    options: Annotated[RunOptions, But("max_steps")],
    compute: Annotated[Compute, But(*_NOT_CHECKED)],
) -> None:
    """Try a network of your own: what is prunable, which budgets, whether every stage works.

    The whole chain runs on a few pictures, one step of each loop; nothing that is written lasts.
    Without --data it runs on noise.
    """
    from dmcp_deploy.run.check import check as check_network
    from dmcp_deploy.run.check import check_text

    result = check_network(network.model, classes=classes.classes, options=options, compute=compute)
    _print(check_text(result))
    ctx.exit(0 if result.passed else 1)


@main.command()
@takes_options
def groups(network: ModelOption, options: NetworkOptions, output: PrintOptions) -> None:
    """List the channel groups of a network, and why some stay whole."""
    from dmcp_deploy.network import listing

    traced = listing.network(network.model, options)
    if output.as_json:
        click.echo(json.dumps(listing.describe_groups(traced)))
    else:
        click.echo(listing.groups_table(traced))


@main.command()
@takes_options
def flops(
    network: ModelOption, options: NetworkOptions, counted: CountedPlan, output: PrintOptions
) -> None:
    """Count multiply-adds, parameters and activation bytes, layer by layer."""
    from dmcp_deploy.network import listing

    counts = listing.flops(network.model, plan=counted.plan, options=options)
    click.echo(json.dumps(counts) if output.as_json else listing.flops_table(counts))


@main.command()
@takes_options
def doctor(output: PrintOptions) -> None:
    """Show what this machine can do, and what to install for the rest."""
    from dmcp_deploy.runtimes import doctor as clinic

    findings = clinic.examine()
    if output.as_json:
        click.echo(json.dumps(clinic.to_json(findings), indent=2))
    else:
        click.echo(clinic.format_findings(findings))


main.add_command(certify)
main.add_command(plan_commands)
main.add_command(table_commands)


def _print(text: str) -> None:
    """Prints a result; of several processes that torchrun has started, the first alone does."""
    if is_first():
        click.echo(text)
