"""A plan that is there -> aligned widths, within all budgets that it records."""

from __future__ import annotations

from pathlib import Path

from dmcp_deploy.bench.certificate import FILE, Certificate
from dmcp_deploy.bench.tables.cache import check_table
from dmcp_deploy.bench.tables.model import LatencyModel, latency_model
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.run.target import read_table
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.search.align import align_plan
from dmcp_deploy.units import MILLISECONDS


def align_recorded(
    plan: ChannelPlan,
    source: Path,
    align: int,
    *,
    flops: str | None = None,
    table: Path | None = None,
) -> ChannelPlan:
    """Returns the plan near another that has aligned widths and keeps its budgets.

    Args:
        plan: The plan.
        source: Its file, or its run's directory.
        align: What widths are multiples of.
        flops: What the multiply-adds end just below, as text; None for those of the plan.
        table: The latency table of a budget in time; None for that of the run.

    Raises:
        DmcpError: The plan cannot be aligned, or a budget is in time and there is no latency table
            of it.
    """
    timed = any(limit.quantity == MILLISECONDS for limit in plan.limits)
    if table is not None and not timed:
        raise DmcpError(f"--table {table} is for a budget in time, and {source} has none.")
    model = _model(plan, source, table) if timed else None
    return align_plan(plan, align, flops, model)


def _model(plan: ChannelPlan, source: Path, given: Path | None) -> LatencyModel | None:
    """Returns what tells the time of plans, as the plan was decoded by; None if nothing does."""
    if given is not None:
        table = LatencyTable.load(given)
        check_table(table, given, plan.network, {})
        return latency_model(table)
    run = RunDir(source)
    digest = run.request().table_digest if run.is_begun() else None
    if digest is None:
        return None
    return latency_model(read_table(run, digest)).scaled(_correction(run, plan))


def _correction(run: RunDir, plan: ChannelPlan) -> float:
    """Returns by how much the table was corrected when a plan was decoded."""
    if not run.file(FILE).is_file():
        return 1.0
    rounds = Certificate.load(run.file(FILE)).rounds
    return next((item.factor for item in rounds if item.plan.groups == plan.groups), 1.0)
