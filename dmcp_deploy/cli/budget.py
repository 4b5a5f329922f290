"""Budgets on the command line, and the command that certifies one in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import click
from click.core import ParameterSource

from dmcp_deploy.cli.mistakes import Command
from dmcp_deploy.cli.options import But, PathText, takes_options
from dmcp_deploy.options.declare import option
from dmcp_deploy.options.run import Budgets, Compute, TargetEngines

_NOT_CERTIFIED = ("checkpoint_s", "tensorboard", "supernet", "rehearse")

#: Options of a command -> the field of `Setting` that each stands for.
_SETTINGS = {"runtime": "runtime", "threads": "threads", "batch": "batch", "batches": "batch"}


def budget_arguments(
    ctx: click.Context, asked: Budgets, engines: TargetEngines, batches: Sequence[int]
) -> dict[str, Any]:
    """Returns what a command is asked of plans, with a target where there is something to time.

    Args:
        ctx: The command's context: of a target that which was given counts, no default.
        asked: What plans may cost.
        engines: Of a target that runs engines.
        batches: Batch sizes; a budget in time is for the first.
    """
    if asked.latency is None and asked.weight_bytes is None:
        return dict(asked.texts())
    target = {
        field: batches[0] if field == "batch" else ctx.params[name]
        for name, field in _SETTINGS.items()
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE
    }
    if engines.latency_precision is not None:
        target["precision"] = engines.latency_precision
    return {**asked.texts(), "table": asked.table, "target": target}


@dataclass(frozen=True)
class CertifyOptions:
    """What `certify` does."""

    again: bool = option(
        False, help="Decode the plan again by what was measured; needs torch, but no new search."
    )


@click.command(cls=Command)
@click.argument("run_dir", type=PathText())
@takes_options
def certify(
    run_dir: Path, compute: Annotated[Compute, But(*_NOT_CERTIFIED)], asked: CertifyOptions
) -> None:
    """Measure whether a run's plan keeps its budget in time, on the device that it is for.

    No torch is needed where the run's ONNX files are there.
    """
    from dmcp_deploy.bench.certificate import MISSED, certificate_text
    from dmcp_deploy.run import certificates

    if asked.again:
        from dmcp_deploy.run.certify import decode_again

        certificate = decode_again(run_dir, compute=compute)
    else:
        certificate = certificates.certify(run_dir, compute=compute)
    click.echo(certificate_text(certificate))
    if certificate.verdict == MISSED:
        click.echo(f"Another plan, where torch is: dmcp-deploy certify {run_dir} --again")
