"""What a network of one's own can do here: its channels, its budgets, every step of the chain."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.noise import noise
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.graph import Group, Network
from dmcp_deploy.network.listing import notes
from dmcp_deploy.options.export import BuildOptions
from dmcp_deploy.options.run import Budgets, Compute, RunOptions
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.registry import ENGINE_RUNTIMES
from dmcp_deploy.run.context import RunContext
from dmcp_deploy.run.engines import check_machine, make_engine_request
from dmcp_deploy.run.problem import search_problem
from dmcp_deploy.run.rehearsal import Branch, Phase, build, convert_to, phases_of
from dmcp_deploy.run.resolve import make_request
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.search.costs.asked import flops_limits
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.text_table import columns, few
from dmcp_deploy.units import format_input, format_macs

#: What a network is converted to, beside the FP32 that it is exported in.
_PRECISIONS = ("fp16", "bf16", "int8")


@dataclass(frozen=True)
class Check:
    """What was found out about a network.

    Attributes:
        network: The network with its channel groups.
        align: What widths are multiples of.
        lowest_macs: Multiply-adds of the narrowest plan for one image.
        full_macs: Those of the full network.
        phases: The parts of the chain that were tried, and the branches behind it.
        absent: TensorRT -> why none of its engines was built.
    """

    network: Network
    align: int
    lowest_macs: int
    full_macs: int
    phases: Sequence[Phase]
    absent: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether all that was tried works."""
        return all(phase.fault is None for phase in self.phases)


def check(
    model: str,
    *,
    classes: int = 1000,
    options: RunOptions | None = None,
    compute: Compute | None = None,
) -> Check:
    """Returns what a network can do: its channels, its budgets, every part of the chain tried.

    Every loop makes one step, on a few pictures; nothing that is written lasts.

    Args:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        classes: Length of the logits, where `options` name no data.
        options: What a run would be asked for.
        compute: Device and progress.

    Raises:
        DmcpError: The network cannot be built or traced, or has nothing to narrow.
    """
    options, compute = options or RunOptions(), compute or Compute()
    if options.data is None:
        images = noise(classes, NetworkSpec.asked(model, options, classes).input_shape[0])
        options = replace(options, recipe=options.recipe or "small")  # trains at the asked size
    else:
        images = open_data(options.data, progress=compute.progress)
    request = make_request(model, Budgets("100%"), options, compute, images=images)
    with tempfile.TemporaryDirectory(prefix="dmcp-deploy-") as folder:
        return _checked(RunContext(RunDir(Path(folder) / "check"), request, compute, images))


def check_text(result: Check) -> str:
    """Returns what a check has found, as text."""
    network, spec = result.network, result.network.spec
    params = NetworkCost(network).params({})
    rows: list[tuple[str, ...]] = [("tried", "seconds", "")]
    rows += [(p.name, f"{p.seconds:.1f}", p.fault or "works") for p in result.phases]
    rows += [(name, "", reason) for name, reason in result.absent.items()]
    share = result.lowest_macs / result.full_macs
    return "\n".join(
        [
            f"{spec.model} on {format_input(spec.input_shape)} for {spec.num_classes} classes:"
            f" {format_macs(result.full_macs)} multiply-adds, {format_macs(params)} parameters",
            *_channel_lines(network),
            f"budgets: {format_macs(result.lowest_macs)} to {format_macs(result.full_macs)},"
            f" {share:.1%} to 100% (--align {result.align})",
            "",
            columns(rows, right=(1,)),
        ]
    )


def _checked(context: RunContext) -> Check:
    """Tries the chain at a budget in the middle of those that can be reached."""
    problem = search_problem(context)
    accounting, space = problem.accounting, problem.space
    lowest_macs, full_macs = accounting.macs(problem.grid.low), accounting.full_macs
    middle = (lowest_macs + full_macs) // 2
    limits = flops_limits(str(middle), accounting, space)
    request = replace(context.request, budget=str(middle))
    engines, absent = _engines()
    branches = {name: partial(convert_to, name) for name in _PRECISIONS} | engines
    phases = _tried(replace(context, request=request), replace(problem, limits=limits), branches)
    return Check(problem.network, request.align, lowest_macs, full_macs, phases, absent)


def _tried(context: RunContext, problem: SearchProblem, branches: dict[str, Branch]) -> list[Phase]:
    phases, total = [], 4 + len(branches)
    with context.compute.progress.task("check", total, unit="part") as bar:
        for phase in phases_of(context, problem, branches):
            phases.append(phase)
            bar.advance()
    return phases


def _engines() -> tuple[dict[str, Branch], dict[str, str]]:
    """Returns what builds an engine in each TensorRT that works here, and why the others do not."""
    branches: dict[str, Branch] = {}
    absent: dict[str, str] = {}
    for runtime in ENGINE_RUNTIMES:
        try:
            request = make_engine_request(BuildOptions(runtime))
            check_machine(request)
        except DmcpError as err:
            absent[f"{runtime} fp16"] = f"not tried: {err}"
        else:
            branches[f"{runtime} fp16"] = partial(build, request)
    return branches, absent


def _channel_lines(network: Network) -> list[str]:
    """Returns how many channels can go, and which stay for which reason."""
    total = sum(group.size for group in network.groups)
    free = sum(group.size for group in network.prunable)
    line = f"channels: {free} of {total} can go ({free / max(1, total):.0%}), in"
    lines = [f"{line} {len(network.prunable)} of {len(network.groups)} groups"]
    held: dict[str, list[Group]] = defaultdict(list)
    for group in network.groups:
        if group.reason is not None:
            held[group.reason].append(group)
    for reason, groups in held.items():
        names = few([group.name for group in groups])
        lines.append(f"held: {sum(g.size for g in groups)} channels ({names}): {reason}")
    return [*lines, *notes(network)]
