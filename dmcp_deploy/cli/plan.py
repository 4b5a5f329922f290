"""Commands on channel plans: import published ones, show one, compare two."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dmcp_deploy.cli.groups import Commands
from dmcp_deploy.cli.options import classes_option, model_options
from dmcp_deploy.errors import DmcpError

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("plan", cls=Commands)
def plan_commands() -> None:
    """Read published channel plans, and show and compare plans."""


@plan_commands.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@model_options
@classes_option
@click.option(
    "--format", "form", help="npy, mmrazor or timm; if not given, told by the file's content."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("plan.json"),
    show_default=True,
    help="The plan to write.",
)
def import_command(
    file: Path,
    model: str,
    width_mult: float,
    input_size: int,
    classes: int,
    form: str | None,
    out: Path,
) -> None:
    """Read a published plan: the DMCP authors' .npy, MMRazor's JSON or YAML, timm's shapes.

    Nothing in the file is run. A plan that was searched on a wider network needs its
    --width-mult: 1.5 for the authors' MobileNetV2.
    """
    from dmcp_deploy.plan import NetworkSpec
    from dmcp_deploy.published.importing import check_place, import_plan
    from dmcp_deploy.units import format_macs

    if out.resolve() == file.resolve():
        raise DmcpError(f"The plan cannot take the place of {file}: give another --out.")
    spec = NetworkSpec(model, width_mult, classes, (3, input_size, input_size))
    check_place(out, spec)
    plan = import_plan(file, spec, form)
    plan.save(out)
    full, kept = format_macs(plan.full_macs), format_macs(plan.macs)
    click.echo(f"{model} x{width_mult:g}: {full} -> {kept} multiply-adds ({plan.macs:,})")
    click.echo(str(out))


@plan_commands.command()
@click.argument("source", type=click.Path(path_type=Path))
@_json_option
def show(source: Path, as_json: bool) -> None:
    """Show a plan, or that of a run: what each group keeps, and the totals."""
    from dmcp_deploy.published.plan_text import describe_plan, find_plan, plan_table

    plan = find_plan(source)
    click.echo(json.dumps(describe_plan(plan)) if as_json else plan_table(plan))


@plan_commands.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@_json_option
def diff(first: Path, second: Path, as_json: bool) -> None:
    """Show the groups in which two plans, or those of two runs, differ, and their totals."""
    from dmcp_deploy.published.plan_text import compare_plans, diff_table, find_plan

    found = compare_plans(find_plan(first), find_plan(second))
    names = (str(first), str(second))
    click.echo(json.dumps(found) if as_json else diff_table(found, names))
