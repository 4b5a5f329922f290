"""What `bench` does where it is a gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from dmcp_deploy.cli.command_options import BenchOutput
from dmcp_deploy.options.measure import MAX_REGRESS, BenchOptions
from dmcp_deploy.options.run import Compute


def gate(
    ctx: click.Context,
    artifacts: tuple[Path, ...],
    options: BenchOptions,
    output: BenchOutput,
    compute: Compute,
) -> int:
    """Prints what a gate finds and returns the exit code."""
    from dmcp_deploy.bench.gate import GATE_SECONDS, format_gate
    from dmcp_deploy.run.gates import gate as gate_artifacts

    is_default = ctx.get_parameter_source("seconds") == ParameterSource.DEFAULT
    if output.against is not None and is_default:
        options = replace(options, seconds=GATE_SECONDS)
    result = gate_artifacts(
        *artifacts,
        baseline=output.baseline,
        against=output.against,
        max_regress=MAX_REGRESS if output.max_regress is None else output.max_regress,
        save=output.save,
        options=options,
        compute=compute,
    )
    click.echo(format_gate(result))
    if result.is_regression:
        return 3
    return 1 if output.strict and result.is_noisy else 0
