"""Commands on latency tables: make probe networks, measure them, predict plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from dmcp_deploy.cli.groups import Commands
from dmcp_deploy.cli.options import MODEL_HELP, align_of, compute_of, probe_options
from dmcp_deploy.errors import DmcpError

_path = click.Path(path_type=Path)


@click.group("table", cls=Commands)
def table_commands() -> None:
    """Measure the layers of a network at many widths; predict the latency of plans."""


@table_commands.command()
@click.option("--model", required=True, help=MODEL_HELP)
@click.option("--count", default=16, show_default=True, help="Networks, the full one included.")
@probe_options
@click.option("--out", required=True, type=_path, help="Folder of the ONNX files.")
def probes(align: str, **options: Any) -> None:
    """Write the probe networks of a model, for a device that has no torch.

    Run again with the same options, it goes on where it stopped.
    """
    from dmcp_deploy.run import tables

    tables.table_probes(align=align_of(align), compute=compute_of({}), **options)
    click.echo(str(options["out"]))


@table_commands.command()
@click.option("--model", help=f"{MODEL_HELP} Its probe networks are made first.")
@click.option(
    "--probes", default="16", show_default=True, help="How many; without --model, their folder."
)
@probe_options
@click.option(
    "--runtime",
    default="onnxruntime",
    show_default=True,
    help="onnxruntime, openvino, tensorrt or tensorrt-rtx.",
)
@click.option("--precision", default="fp32", show_default=True, help="Of engines, as in fp16.")
@click.option("--threads", default=0, show_default=True, help="0 leaves it to the runtime.")
@click.option("--batch", default=1, show_default=True, help="Images per call.")
@click.option(
    "--out", type=_path, default=Path("table.json"), show_default=True, help="The table to write."
)
def build(
    model: str | None,
    probes: str,
    runtime: str,
    precision: str,
    threads: int,
    batch: int,
    out: Path,
    **options: Any,
) -> None:
    """Measure probe networks and write their latency table.

    With --probes FOLDER no torch is needed. Run again with the same options, it goes on where it
    stopped.
    """
    from dmcp_deploy.bench.tables.text import format_table
    from dmcp_deploy.run import tables

    setting: dict[str, Any] = {
        "runtime": runtime,
        "precision": precision,
        "threads": threads,
        "batch": batch,
    }
    tables.check_setting(**setting)
    folder = Path(probes) if model is None else _made(model, probes, out, options)
    table = tables.table_build(folder, out, compute=compute_of({}), **setting)
    click.echo(format_table(table))
    click.echo(str(out))


@table_commands.command()
@click.argument("table", type=_path)
@click.argument("artifacts", nargs=-1, required=True, type=_path)
@click.option("--layers", is_flag=True, help="Show every layer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict(table: Path, artifacts: tuple[Path, ...], layers: bool, as_json: bool) -> None:
    """Predict the latency of plans, runs or ONNX files on the table's device."""
    from dmcp_deploy.bench.tables.table import LatencyTable
    from dmcp_deploy.bench.tables.text import format_predictions
    from dmcp_deploy.run import tables

    known = LatencyTable.load(table)
    found = tables.table_predict(known, *artifacts)
    if as_json:
        click.echo(json.dumps([item.to_json() for item in found]))
    else:
        click.echo(format_predictions(known, found, layers))


def _made(model: str, probes: str, out: Path, options: dict[str, Any]) -> Path:
    """Makes the probe networks of a model beside its table; returns their folder."""
    from dmcp_deploy.run import tables

    if not (probes.isdecimal() and len(probes) <= 9):
        raise DmcpError(f"--probes {probes!r} with --model must be how many, such as 16.")
    folder = tables.probes_beside(out)
    how = {**options, "align": align_of(options["align"]), "compute": compute_of({})}
    tables.table_probes(model, folder, count=int(probes), **how)
    return folder
