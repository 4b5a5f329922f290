"""Commands on latency tables: make probe networks, measure them, predict plans."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click

from dmcp_deploy.artifact import check_writable
from dmcp_deploy.cli.groups import Commands
from dmcp_deploy.cli.options import PathText, PrintOptions, takes_options
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.declare import option
from dmcp_deploy.options.measure import (
    ENGINE_PLANS,
    FEWEST_PROBES,
    MOST_PROBES,
    PLANS,
    PROBES,
    ProbeOptions,
    Setting,
)
from dmcp_deploy.options.network import MODEL_HELP, ModelOption
from dmcp_deploy.options.run import Compute
from dmcp_deploy.progress import TerminalProgress

_path = PathText()


@dataclass(frozen=True)
class ProbesTarget(ModelOption):
    """Whose probe networks are made, how many, and where they go."""

    out: Path = option(help="Folder of the ONNX files.")
    count: int = option(
        PROBES, least=FEWEST_PROBES, most=MOST_PROBES, help="Networks, the full one included."
    )


@dataclass(frozen=True)
class TableTarget:
    """The probe networks that a table is measured on, and where it goes."""

    model: str | None = option(None, help=f"{MODEL_HELP} Its probe networks are made first.")
    probes: str = option(str(PROBES), help="How many; without --model, their folder.")
    out: Path = option(Path("table.json"), help="The table to write.")
    plans: int | None = option(
        None,
        help=f"Whole plans that correct it; 0 for none. {PLANS}, or {ENGINE_PLANS} with engines, if"
        " not given.",
    )
    near: float | None = option(
        None, help="Half of them near this share of the full network's latency, as in 0.6."
    )


@dataclass(frozen=True)
class PredictOptions:
    """What is shown of predictions."""

    layers: bool = option(False, help="Show every layer.")


@click.group("table", cls=Commands)
def table_commands() -> None:
    """Measure the layers of a network at many widths; predict the latency of plans."""


@table_commands.command()
@takes_options
def probes(target: ProbesTarget, options: ProbeOptions) -> None:
    """Write the probe networks of a model, for a device that has no torch.

    Run again with the same options, it goes on where it stopped.
    """
    from dmcp_deploy.run import tables

    compute = Compute(progress=TerminalProgress())
    tables.table_probes(
        target.model, target.out, count=target.count, options=options, compute=compute
    )
    click.echo(str(target.out))


@table_commands.command()
@takes_options
def build(target: TableTarget, options: ProbeOptions, setting: Setting) -> None:
    """Measure probe networks and write their latency table.

    With --probes FOLDER no torch is needed. Run again with the same options, it goes on where it
    stopped.
    """
    from dmcp_deploy.bench.tables.table import KIND
    from dmcp_deploy.bench.tables.text import format_table
    from dmcp_deploy.run import tables

    tables.check_setting(setting)
    tables.check_plans(target.plans, target.near)
    compute = Compute(progress=TerminalProgress())
    folder = Path(target.probes)
    if target.model is None and not folder.is_dir():
        raise DmcpError(
            f"There is no folder {folder} of probe networks: name their network with --model, or"
            " the folder that table probes has written with --probes."
        )
    if target.model is not None:
        check_writable(target.out, KIND)
        folder = _make_probes(target.model, target.probes, target.out, options, compute)
    table = tables.table_build(
        folder,
        target.out,
        plans=target.plans,
        near=target.near,
        options=setting,
        compute=compute,
    )
    click.echo(format_table(table))
    click.echo(str(target.out))


@table_commands.command()
@click.argument("table", type=_path)
@click.argument("artifacts", nargs=-1, required=True, type=_path)
@takes_options
def predict(
    table: Path, artifacts: tuple[Path, ...], shown: PredictOptions, output: PrintOptions
) -> None:
    """Predict the latency of plans, runs or ONNX files on the table's device."""
    from dmcp_deploy.bench.tables.table import LatencyTable
    from dmcp_deploy.bench.tables.text import format_predictions
    from dmcp_deploy.run import tables

    known = LatencyTable.load(table)
    found = tables.table_predict(known, *artifacts)
    if output.as_json:
        click.echo(json.dumps([item.to_json() for item in found]))
    else:
        click.echo(format_predictions(known, found, shown.layers))


def _make_probes(
    model: str, count: str, out: Path, options: ProbeOptions, compute: Compute
) -> Path:
    """Makes the probe networks of a model beside its table; returns their folder."""
    from dmcp_deploy.run import tables

    if not (count.isdecimal() and len(count) <= 9):
        raise DmcpError(f"--probes {count!r} with --model must be how many, such as 16.")
    folder = tables.probes_beside(out)
    tables.table_probes(model, folder, count=int(count), options=options, compute=compute)
    return folder
