"""Options of single commands: what they show and keep, and what prune builds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
from click.core import ParameterSource

from dmcp_deploy.options.declare import option
from dmcp_deploy.options.measure import MAX_REGRESS
from dmcp_deploy.registry import ENGINE_RUNTIMES, PRECISIONS


@dataclass(frozen=True)
class PruneEngines:
    """Engines at the end of `prune`."""

    engine: str | None = option(
        None,
        choices=("auto", *ENGINE_RUNTIMES),
        help="Build engines as well: tensorrt, tensorrt-rtx or auto.",
    )
    engine_precision: tuple[str, ...] = option(
        ("fp16",), choices=PRECISIONS, help="Of the engines, as in fp16,int8."
    )
    gpu_arch: tuple[str, ...] = option((), help="RTX: GPUs to build for, as in sm86,sm89.")


def check_engine_options(ctx: click.Context, engines: PruneEngines) -> None:
    """Checks that options of engines are not given where none are built.

    Raises:
        click.UsageError: One is.
    """
    for name in ("engine_precision", "gpu_arch") if engines.engine is None else ():
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{flag} needs --engine, which builds engines.", ctx)


@dataclass(frozen=True)
class BenchOutput:
    """What `bench` shows and keeps, and what it compares with."""

    wide: bool = option(False, help="Show all columns.")
    layers: bool = option(False, help="Then profile every layer, at the first of the batch sizes.")
    save: Path | None = option(None, help="Write the record here as well.")
    baseline: Path | None = option(
        None, help="Gate: compare with this record, saved earlier on this machine."
    )
    against: Path | None = option(
        None,
        help="Gate: compare with this older artifact, measured now as well; 4 seconds at most.",
    )
    max_regress: str | None = option(
        None, help=f"Gate: the slowdown that is allowed; {MAX_REGRESS} if not given."
    )
    strict: bool = option(False, help="Gate: too noisy to tell is an error, exit code 1.")


@dataclass(frozen=True)
class ReportOptions:
    """What `report` writes."""

    out: Path | None = option(None, help="The file to write.")
    form: str = option("html", flag="--format", help="html, md or json.")


@dataclass(frozen=True)
class CountedPlan:
    """Where `flops` counts."""

    plan: Path | None = option(None, help="Count at this plan's widths.")


@dataclass(frozen=True)
class Classes:
    """How many classes, where no data tells."""

    classes: int = option(1000, least=1, help="Length of the logits, without --data.")
