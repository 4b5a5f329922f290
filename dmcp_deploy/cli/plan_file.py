"""Commands that take a plan file where they take a run."""

from __future__ import annotations

from pathlib import Path

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.plan_file import PlanOutput, PlanWeights
from dmcp_deploy.progress import Progress


def is_plan_file(path: Path) -> bool:
    """Returns whether a path is that of a plan, not of a run directory, network or engine."""
    return path.suffix == ".json" and not path.is_dir()


def refuse_for_runs(source: Path, asked: PlanWeights) -> None:
    """Checks that options of plan files are not given with something else.

    Raises:
        DmcpError: One is.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in vars(asked).items() if value]
    if given:
        raise DmcpError(
            f"{' and '.join(given)} go with a plan file (PLAN.json), and {source} is none: a run"
            " has its own."
        )


def written_to(source: Path, asked: PlanOutput, suffix: str) -> Path:
    """Returns the file to write of a plan.

    Raises:
        DmcpError: It is the plan itself, or the file of weights.
    """
    out, weights = asked.out or source.with_suffix(suffix), asked.weights or ""
    files = (weights, weights.rpartition(":")[0])
    for what, path in (("the plan", str(source)), *(("the weights", file) for file in files)):
        if out.resolve() == Path(path).resolve():
            raise DmcpError(f"The file cannot take the place of {what} {path}: give another --out.")
    return out


def with_networks(
    sources: tuple[Path, ...], asked: PlanWeights, progress: Progress, original: bool
) -> tuple[Path, ...]:
    """Returns files and run directories as they are, and ONNX files in place of plans.

    Args:
        sources: What a command is given.
        asked: The weights of plans.
        progress: Told of what is exported.
        original: Whether a plan brings its full network as well.

    Raises:
        DmcpError: Weights are given without a plan, or a plan cannot be exported.
    """
    plans = [source for source in sources if is_plan_file(source)]
    if not plans:
        refuse_for_runs(sources[0], asked)
        return sources
    from dmcp_deploy.run.plan_files import onnx_files

    networks = {plan: onnx_files(plan, asked.weights, original, progress) for plan in plans}
    return tuple(file for source in sources for file in networks.get(source, (source,)))
