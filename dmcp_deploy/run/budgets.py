"""One run for each of several budgets; their searches share what does not depend on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.declare import merged
from dmcp_deploy.options.run import Budgets, Compute, RunOptions
from dmcp_deploy.rundir.directory import SHARED, RunDir, folder_name
from dmcp_deploy.rundir.request import budget_fields
from dmcp_deploy.units import check_unit, parse_budget, parse_bytes, parse_latency, parse_params


@dataclass(frozen=True)
class _Kind:
    """How budgets of one kind are written.

    Attributes:
        two: Two of them.
        check: Raises what is wrong with one.
    """

    two: str
    check: Callable[[str], object]


def _check_flops(text: str) -> None:
    check_unit(text)
    parse_budget(text)


def _check_params(text: str) -> None:
    check_unit(text, "parameter", "2M, 350k or 50%")
    parse_params(text)


def _check_bytes(text: str) -> None:
    check_unit(text, "weight", "8MB, 350kB or 50%", "MB")
    parse_bytes(text)


_KINDS = {
    "flops": _Kind("300M,211M", _check_flops),
    "latency": _Kind("30ms,25ms", parse_latency),
    "params": _Kind("3M,2M", _check_params),
    "weight_bytes": _Kind("8MB,5MB", _check_bytes),
}


def parse_budgets(text: str, name: str = "flops") -> list[str]:
    """Returns the budgets in a list such as "300M,211M" or "25%,10%", each once.

    Args:
        text: The list.
        name: "flops", "latency", "params" or "weight_bytes".

    Raises:
        DmcpError: One of them is not understood.
    """
    kind, flag = _KINDS[name], _flag(name)
    budgets = [part.strip() for part in text.split(",")]
    if re.fullmatch(r"\d{1,3},\d+\s*([kmgt]b?|%|us|ms|s)", text.strip(), re.IGNORECASE):
        raise DmcpError(
            f"The comma in {flag} {text!r} separates two budgets: write one as"
            f" {text.strip().replace(',', '.')}, and two as {kind.two}."
        )
    if any(re.search(r"\S[;\s]+\d", part) for part in budgets):
        split = re.split(r"[;,\s]+(?=\d)", text.strip(" ;,"))
        raise DmcpError(f"{flag} {text!r} is not understood: write {','.join(split)}.")
    if len(budgets) > 1 and not all(budgets):
        raise DmcpError(f"{flag} {text!r} has an empty part: write budgets as {kind.two}.")
    for budget in budgets:
        kind.check(budget)
    return list(dict.fromkeys(budgets))


def check_texts(budgets: Budgets) -> None:
    """Checks that the budgets of one run are understood.

    Raises:
        DmcpError: One is not.
    """
    for name, text in budgets.texts().items():
        if text is not None:
            _KINDS[name].check(text)


def split_budgets(asked: Budgets) -> list[Budgets]:
    """Returns the budgets of each run, where one of them names several.

    Raises:
        DmcpError: More than one names several, or one is not understood.
    """
    parts = {name: parse_budgets(text, name) for name, text in asked.texts().items() if text}
    lists = [name for name, texts in parts.items() if len(texts) > 1]
    if len(lists) > 1:
        raise DmcpError(
            f"Both {_flag(lists[0])} and {_flag(lists[1])} name several budgets: name several in"
            " one of them, and one that holds for all in the other."
        )
    texts = {name: several[0] for name, several in parts.items()}
    if not lists:
        return [replace(asked, **texts)]
    return [replace(asked, **{**texts, lists[0]: text}) for text in parts[lists[0]]]


def for_each_budget(
    stage: Callable[..., RunDir],
    model: str,
    flops: str | None = None,
    *,
    latency: str | None = None,
    params: str | None = None,
    weight_bytes: str | None = None,
    table: Path | str | None = None,
    target: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    options: RunOptions | None = None,
    compute: Compute | None = None,
    **changes: Any,
) -> list[RunDir]:
    """Returns the runs of `api.prune` or `search` for several budgets.

    The first stage of a search, which does not depend on the budget, is done in the first run
    and taken over by the others: each ends bit for bit where a run of its own would.

    Args:
        stage: `api.search`, or `api.prune` with what it takes besides.
        model: As for the stage.
        flops: Budgets such as "300M,211M".
        latency: Budgets such as "30ms,25ms"; one of the four may name several.
        params: Budgets such as "3M,2M".
        weight_bytes: Budgets such as "8MB,5MB".
        table: As for the stage.
        target: As for the stage.
        out: A folder for the run directories, which are named after the budgets; by default
            "runs/MODEL-FLOPS". A single budget's run is `out` itself.
        options: As for the stage.
        compute: As for the stage.
        **changes: As for the stage.

    Raises:
        DmcpError: Something asked for cannot be had, for any of the budgets; found before any
            training.
    """
    asked = Budgets(flops, latency, params, weight_bytes, table)
    budgets, wanted = split_budgets(asked), merged(RunOptions, options, **changes)

    def run_stage(one: Budgets, folder: Path | str | None, how: Compute | None) -> RunDir:
        values = {**one.texts(), "table": one.table, "target": target}
        given = {name: value for name, value in values.items() if value is not None}
        return stage(model, **given, out=folder, options=wanted, compute=how)

    if len(budgets) == 1:
        return [run_stage(budgets[0], out, compute)]
    compute = compute or Compute()
    check_budgets(model, budgets, wanted, compute, target)
    folder = Path(out) if out is not None else Path("runs") / folder_name(f"{model}-{asked}")
    runs: list[RunDir] = []
    for one, name in zip(budgets, _names(budgets), strict=True):
        runs.append(run_stage(one, folder / name, compute))
        # The chain of the first budget is that of all.
        compute = replace(compute, rehearse=False)
        if compute.supernet is None and runs[0].file(SHARED).exists():
            compute = replace(compute, supernet=runs[0].path)
    return runs


def check_budgets(
    model: str,
    budgets: Sequence[Budgets],
    options: RunOptions,
    compute: Compute,
    target: Mapping[str, Any] | None = None,
) -> None:
    """Finds what is wrong with network, data, recipe and budgets before any training.

    Args:
        model: The network's name.
        budgets: What the plan of each run may cost.
        options: What else is asked for.
        compute: Device and progress.
        target: Of budgets in time: fields of `Setting` that are asked for.

    Raises:
        DmcpError: Something asked for cannot be had, or a budget cannot be reached.
    """
    from dmcp_deploy.network.models import build_network
    from dmcp_deploy.run.context import RunContext
    from dmcp_deploy.run.resolve import make_request
    from dmcp_deploy.search.run import plan_problem

    first = make_request(model, budgets[0], options, compute, target=target)
    network = build_network(first.network, first.seed)
    for one in budgets:
        check_texts(one)
        request = replace(first, **budget_fields(one))
        context = RunContext(RunDir(Path("runs")), request, compute)
        plan_problem(network, context.budgets, request.align, context.recipe)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _names(budgets: Sequence[Budgets]) -> list[str]:
    """Returns what tells the budgets of several runs apart."""
    several = [set(texts) for texts in zip(*(b.texts().values() for b in budgets), strict=True)]
    (place,) = (place for place, texts in enumerate(several) if len(texts) > 1)
    return [str(tuple(b.texts().values())[place]) for b in budgets]
