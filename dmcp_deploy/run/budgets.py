"""One run for each of several budgets; their searches share what does not depend on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.declare import merged
from dmcp_deploy.options.run import Compute, RunOptions
from dmcp_deploy.rundir.directory import SHARED, RunDir, folder_name
from dmcp_deploy.units import check_unit, parse_budget


def parse_budgets(text: str) -> list[str]:
    """Returns the budgets in a list such as "300M,211M" or "25%,10%", each once.

    Raises:
        DmcpError: One of them is not understood.
    """
    budgets = [part.strip() for part in text.split(",")]
    if re.fullmatch(r"\d{1,3},\d+\s*[kmgt%]", text.strip(), re.IGNORECASE):
        raise DmcpError(
            f"The comma in --flops {text!r} separates two budgets: write one as"
            f" {text.strip().replace(',', '.')}, and two as 300M,211M."
        )
    if any(re.search(r"\S[;\s]+\d", part) for part in budgets):
        split = re.split(r"[;,\s]+(?=\d)", text.strip(" ;,"))
        raise DmcpError(f"--flops {text!r} is not understood: write {','.join(split)}.")
    if len(budgets) > 1 and not all(budgets):
        raise DmcpError(f"--flops {text!r} has an empty part: write budgets as 300M,211M.")
    for budget in budgets:
        check_unit(budget)
        parse_budget(budget)
    return list(dict.fromkeys(budgets))


def for_each_budget(
    stage: Callable[..., RunDir],
    model: str,
    flops: str,
    *,
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
        out: A folder for the run directories, which are named after the budgets; by default
            "runs/MODEL-FLOPS". A single budget's run is `out` itself.
        options: As for the stage.
        compute: As for the stage.
        **changes: As for the stage.

    Raises:
        DmcpError: Something asked for cannot be had, for any of the budgets; found before any
            training.
    """
    budgets, asked = parse_budgets(flops), merged(RunOptions, options, **changes)
    if len(budgets) == 1:
        return [stage(model, flops, out=out, options=asked, compute=compute)]
    compute = compute or Compute()
    check_budgets(model, budgets, asked, compute)
    folder = Path(out) if out is not None else Path("runs") / folder_name(f"{model}-{flops}")
    runs: list[RunDir] = []
    for budget in budgets:
        runs.append(stage(model, budget, out=folder / budget, options=asked, compute=compute))
        # The chain of the first budget is that of all.
        compute = replace(compute, rehearse=False)
        if compute.supernet is None and runs[0].file(SHARED).exists():
            compute = replace(compute, supernet=runs[0].path)
    return runs


def check_budgets(
    model: str, budgets: Sequence[str], options: RunOptions, compute: Compute
) -> None:
    """Finds what is wrong with network, data, recipe and budgets before any training.

    Args:
        model: The network's name.
        budgets: The budgets as text.
        options: What else is asked for.
        compute: Device and progress.

    Raises:
        DmcpError: Something asked for cannot be had, or a budget cannot be reached.
    """
    from dmcp_deploy.network.models import build_network
    from dmcp_deploy.run.resolve import make_request
    from dmcp_deploy.search.costs.asked import asked_budgets
    from dmcp_deploy.search.run import plan_problem
    from dmcp_deploy.training.recipe import recipe_from_json

    request = make_request(model, budgets[0], options, compute)
    network = build_network(request.network, request.seed)
    recipe = recipe_from_json(dict(request.recipe))
    for budget in budgets:
        plan_problem(network, asked_budgets(flops=budget), request.align, recipe)
