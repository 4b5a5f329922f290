"""Commands on channel plans: import published ones, show one, compare two."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click

from dmcp_deploy.cli.groups import Commands
from dmcp_deploy.cli.options import PathText, PrintOptions, takes_options
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.declare import option
from dmcp_deploy.options.network import ModelOption, NetworkOptions, align_option


@dataclass(frozen=True)
class ImportOptions:
    """How a published plan is read, and where it goes."""

    form: str | None = option(
        None,
        flag="--format",
        help="npy, mmrazor, timm or json; if not given, told by the file's content.",
    )
    out: Path = option(Path("plan.json"), help="The plan to write.")


@dataclass(frozen=True)
class AlignOptions:
    """Which widths a plan is brought to, and where it goes."""

    align: int = align_option()
    flops: str | None = option(
        None, help="The budget, as in 211M or 50%; the plan's own multiply-adds if not given."
    )
    table: Path | None = option(
        None, help="Latency table of a budget in time; that of the run if not given."
    )
    out: Path = option(Path("aligned.json"), help="The plan to write.")


@click.group("plan", cls=Commands)
def plan_commands() -> None:
    """Read published channel plans, and show and compare plans."""


@plan_commands.command("import")
@click.argument("file", type=PathText())
@takes_options
def import_command(
    file: Path, network: ModelOption, options: NetworkOptions, reading: ImportOptions
) -> None:
    """Read a plan of others: the DMCP authors' .npy, MMRazor's JSON or YAML, timm's shapes.

    A mapping of layers to channels in JSON, {"features.0.0": 24, ...}, is read as well; what it
    leaves out stays whole.

    Nothing in the file is run. A plan that was searched on a wider network needs its
    --width-mult: 1.5 for the authors' MobileNetV2.
    """
    from dmcp_deploy.plan import NetworkSpec
    from dmcp_deploy.published.importing import check_place, import_plan
    from dmcp_deploy.units import format_macs

    model, out = network.model, reading.out
    if out.resolve() == file.resolve():
        raise DmcpError(f"The plan cannot take the place of {file}: give another --out.")
    spec = NetworkSpec.asked(model, options, options.classes)
    check_place(out, spec)
    plan = import_plan(file, spec, reading.form)
    plan.save(out)
    full, kept = format_macs(plan.full_macs), format_macs(plan.macs)
    click.echo(f"{model} x{spec.width_mult:g}: {full} -> {kept} multiply-adds ({plan.macs:,})")
    click.echo(str(out))


@plan_commands.command()
@click.argument("file", type=PathText())
@takes_options
def align(file: Path, asked: AlignOptions) -> None:
    """Bring a plan, or that of a run, to aligned widths, at equal multiply-adds or to a budget.

    The other budgets that the plan records are kept.
    """
    from dmcp_deploy.published.importing import check_place
    from dmcp_deploy.published.plan_text import find_plan
    from dmcp_deploy.run.align import align_recorded
    from dmcp_deploy.units import format_macs

    if asked.out.resolve() == file.resolve():
        raise DmcpError(f"The plan cannot take the place of {file}: give another --out.")
    plan = find_plan(file)
    check_place(asked.out, plan.network)
    aligned = align_recorded(plan, file, asked.align, flops=asked.flops, table=asked.table)
    aligned.save(asked.out)
    shares = (f", {one.share:.2%} of the budget of {one.text}" for one in aligned.limits)
    click.echo(
        f"{plan.network.model} x{plan.network.width_mult:g}: {format_macs(plan.macs)} ->"
        f" {format_macs(aligned.macs)} multiply-adds ({aligned.macs:,}){''.join(shares)}, multiples"
        f" of {aligned.multiples()} in groups of more channels"
    )
    for note in aligned.notes():
        click.echo(note)
    click.echo(str(asked.out))


@plan_commands.command()
@click.argument("source", type=PathText())
@takes_options
def show(source: Path, output: PrintOptions) -> None:
    """Show a plan, or that of a run: what each group keeps, and the totals."""
    from dmcp_deploy.published.plan_text import describe_plan, find_plan, plan_table

    plan = find_plan(source)
    click.echo(json.dumps(describe_plan(plan)) if output.as_json else plan_table(plan))


@plan_commands.command()
@click.argument("first", type=PathText())
@click.argument("second", type=PathText())
@takes_options
def diff(first: Path, second: Path, output: PrintOptions) -> None:
    """Show the groups in which two plans, or those of two runs, differ, and their totals."""
    from dmcp_deploy.published.plan_text import compare_plans, diff_table, find_plan

    found = compare_plans(find_plan(first), find_plan(second))
    names = (str(first), str(second))
    click.echo(json.dumps(found) if output.as_json else diff_table(found, names))
