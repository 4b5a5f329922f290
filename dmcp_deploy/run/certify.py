"""Keeps a budget in time by measurement: a plan that misses it is decoded again."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from dmcp_deploy.bench.certificate import FILE, ROUNDS, Certificate, Round, certificate_text
from dmcp_deploy.bench.tables.cache import elsewhere
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.run.certificates import (
    FOLDER,
    begun,
    left_files,
    left_plan,
    measure,
    record,
    table_ms,
    with_plan,
)
from dmcp_deploy.run.context import RunContext
from dmcp_deploy.run.networks import random_network
from dmcp_deploy.run.problem import search_problem
from dmcp_deploy.run.stages import keep_decoded
from dmcp_deploy.run.template import export_probe
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.files import ORIGINAL, PRUNED
from dmcp_deploy.rundir.stages import CERTIFY
from dmcp_deploy.search.costs.latency import LatencyCost
from dmcp_deploy.search.costs.limits import Limit, Limits
from dmcp_deploy.search.problem import SearchProblem, SearchResult
from dmcp_deploy.search.run import make_plan, search_plan
from dmcp_deploy.training.distributed import any_says, is_main, wait_for_all

#: Of a budget in time: what plans that are decoded again aim at, for two measurements of one plan
#: differ by a percent.
_AIM = 0.985


def run_certify(
    context: RunContext, problem: SearchProblem | None = None, result: SearchResult | None = None
) -> None:
    """Measures the plan of a run that has a budget in time; decodes others until one keeps it.

    At most three plans are measured, and each is kept at once: a run that was killed goes on from
    them to the same plan. With a latency table of another device nothing is measured; the networks
    are left in the run's folder for `certify` there.

    Args:
        context: The run; its search is done.
        problem: The search, where it was made already.
        result: What it has found, where that is known already.

    Raises:
        DmcpError: A network cannot be exported or measured.
    """
    if context.request.latency is None or _is_certified(context.run):
        return
    searched = Searched(context, problem, result)
    certificate = begun(context.run, context.table)
    if not certificate.rounds:
        certificate = with_plan(certificate, context.table, context.plan())
    certificate = _tried(searched, certificate, ROUNDS)
    _finish(searched, certificate)


def decode_again(run_dir: Path | str, *, compute: Compute | None = None) -> Certificate:
    """Decodes the plan of a run again that has missed its budget in time where it was measured.

    The latency table is corrected by what was measured; the search is not done again. On the
    table's own device the new plan is measured too.

    Args:
        run_dir: The run directory, with the certificate from the device.
        compute: Device and progress.

    Raises:
        DmcpError: Nothing was measured yet, or no other plan is any better.
    """
    context = RunContext.resume(Path(run_dir), compute or Compute())
    if context.request.latency is None or not context.run.file(FILE).is_file():
        raise DmcpError(f"{run_dir} has no certificate yet: run certify on the target first.")
    certificate = begun(context.run, context.table)
    if certificate.seen[-1] is None:
        raise DmcpError(
            f"The plan of {run_dir} was not measured yet: run certify on the target"
            f" ({certificate.device}) and bring its {FILE} here."
        )
    searched = Searched(context)
    certificate = _tried(searched, certificate, len(certificate.rounds) + ROUNDS)
    if certificate.chosen.plan.groups == context.plan().groups:
        raise DmcpError(f"There is no better plan to decode: {certificate_text(certificate)}.")
    _finish(searched, certificate)
    return certificate


def leave_files(context: RunContext, plan: ChannelPlan) -> None:
    """Exports the full network and a plan's, with any weights: they take as long with others."""
    files, network = left_files(context.run), random_network(context)
    context.compute.progress.say("Exporting the networks that are measured")
    if not files[ORIGINAL].is_file():
        export_probe(network, {}, files[ORIGINAL])
    left_plan(context.run).unlink(missing_ok=True)
    export_probe(network, plan.widths(), files[PRUNED])
    plan.save(left_plan(context.run))


@dataclass(frozen=True)
class Searched:
    """A search that is done, made again where it is needed: from its last checkpoint.

    Attributes:
        context: The run.
        given: The search, where it was made already.
        found: What it has found, where that is known already.
    """

    context: RunContext
    given: SearchProblem | None = None
    found: SearchResult | None = None

    @cached_property
    def problem(self) -> SearchProblem:
        """The search."""
        return self.given or search_problem(self.context)

    @cached_property
    def result(self) -> SearchResult:
        """What it has found.

        Raises:
            DmcpError: The checkpoint is gone.
        """
        if self.found is not None:
            return self.found
        request = self.context.request
        problem = replace(self.problem, is_done=True)
        return search_plan(request.method, problem, request.align)[1]

    def plan(self, factor: float) -> ChannelPlan | None:
        """Returns the plan once more, by a corrected latency table; None where none can meet it."""
        limits, aimed = self._limits(factor), self._limits(factor, _AIM)
        if not aimed.is_met(self.problem.grid.low):
            return None
        problem, request = replace(self.problem, limits=limits), self.context.request
        return make_plan(problem, self.result.decode(aimed), request.method, request.align)

    def _limits(self, factor: float, aim: float = 1.0) -> Limits:
        """Returns the budgets by a corrected table, that in time times `aim`."""
        return Limits(tuple(self._limit(it, factor, aim) for it in self.problem.limits.limits))

    def _limit(self, limit: Limit, factor: float, aim: float) -> Limit:
        if not isinstance(limit.cost, LatencyCost):
            return limit
        space = self.problem.space
        cost = LatencyCost(self.context.latency_model.scaled(factor), space)
        return replace(limit, cost=cost, most=min(aim * limit.most, cost.at(space.full)))


def _tried(searched: Searched, certificate: Certificate, most: int) -> Certificate:
    """Measures and decodes until a plan keeps the budget, or so many were tried."""
    context = searched.context
    here = elsewhere(context.table, read_environment(devices=True)) is None
    (here,) = any_says(is_main() and here)  # the first process's machine is the one that measures
    while True:
        if certificate.rounds[-1].record is None and here:
            certificate = _measured(context, certificate)
        factor = certificate.correction() if len(certificate.rounds) < most else None
        plan = None if factor is None else searched.plan(factor)
        if factor is None or plan is None:
            return certificate
        if any(item.plan.groups == plan.groups for item in certificate.rounds):
            return certificate
        context.compute.progress.say(f"{certificate_text(certificate)}; decoding another plan")
        predicted = table_ms(context.table, plan)
        certificate = certificate.with_round(Round(plan, predicted, factor))


def _measured(context: RunContext, certificate: Certificate) -> Certificate:
    """Returns a certificate whose last plan is measured, by the first of several processes."""
    if is_main():
        leave_files(context, certificate.rounds[-1].plan)
        seen = measure(left_files(context.run), certificate.setting, context.compute)
        certificate.with_record(seen).save(context.run.file(FILE))
    wait_for_all()
    return Certificate.load(context.run.file(FILE))


def _finish(searched: Searched, certificate: Certificate) -> None:
    """Keeps the plan that was chosen, and what goes with it."""
    context, chosen = searched.context, certificate.chosen
    if chosen.plan.groups != certificate.rounds[0].plan.groups:
        # What was decoded last need not be what was chosen, nor that be decoded at all.
        plan = searched.plan(chosen.factor)
        if plan is not None and plan.groups == chosen.plan.groups:
            keep_decoded(context, searched.problem, plan)
    if is_main():
        chosen.plan.save(context.run.file("plan.json"))
        if chosen.record is None:
            leave_files(context, chosen.plan)
        else:
            shutil.rmtree(context.run.file(FOLDER), ignore_errors=True)
        record(context.run, certificate)
        context.compute.progress.say(certificate_text(certificate))
    wait_for_all()


def _is_certified(run: RunDir) -> bool:
    """Returns whether a run is certified; its plan may have been replaced by another one since."""
    certified = CERTIFY in run.stages() and run.file(FILE).is_file()
    wait_for_all()
    return certified
