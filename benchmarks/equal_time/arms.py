"""The arms of `latency_worth.py`: what each makes of one budget in time, by one latency table."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn import Dropout

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.tables.model import LatencyModel, check_certain, latency_model
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.models import build_network
from dmcp_deploy.options.measure import Setting
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import LOWEST_SHARE, ChannelPlan, Keep, NetworkSpec
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.search.costs.asked import AskedBudget, asked_budgets, flops_limits
from dmcp_deploy.search.costs.asked_time import latency_budget
from dmcp_deploy.search.costs.limits import Limit
from dmcp_deploy.search.decode import decode
from dmcp_deploy.search.dmcp import nearest_widths
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.ranking import keeps, top_units
from dmcp_deploy.search.run import make_plan, plan_problem
from dmcp_deploy.training.precision import choose_precision
from dmcp_deploy.training.recipe import Recipe, Schedule
from dmcp_deploy.units import parse_latency

LATENCY, FLOPS, FLOPS_ON_STEPS = "dmcp, latency", "dmcp, FLOPs", "dmcp, FLOPs on steps"
UNIFORM, HALP = "uniform", "HALP-like knapsack"
ARMS = (LATENCY, FLOPS, FLOPS_ON_STEPS, UNIFORM, HALP)

_BISECTIONS = 16


@dataclass(frozen=True)
class Target:
    """A network on a device, and what its plans take there.

    Attributes:
        spec: The full network.
        model: What a latency table says of it.
        setting: Runtime, threads and batch.
        device: What the table was measured on.
        ran_by: What ran it.
        digest: The table.
    """

    spec: NetworkSpec
    model: LatencyModel
    setting: Setting
    device: str
    ran_by: str
    digest: str

    @classmethod
    @functools.cache
    def of_table(cls, path: Path) -> Target:
        """Returns the target of a latency table, or raises DmcpError where that is too noisy."""
        table = LatencyTable.load(path)
        model = latency_model(table)
        check_certain(model)
        named = table.setting, table.device, table.ran_by
        return cls(table.network, model, *named, digest_file(path))


@dataclass(frozen=True)
class Searched:
    """What the searches of one seed have left.

    Attributes:
        latency: Units that each group is expected to keep by the search under the budget in time.
        flops: The same under a FLOPs budget whose plan takes as long.
        scores: The importance of each unit to the first stage's supernet.
    """

    latency: Sequence[float]
    flops: Sequence[float]
    scores: Sequence[float]


@dataclass(frozen=True)
class Setup:
    """What all arms share: the target, the budget in time, the widths on offer.

    Attributes:
        options: Of the command line.
        target: The network and its time.
    """

    options: argparse.Namespace
    target: Target

    @functools.cached_property
    def network(self) -> Network:
        """The full network; its weights are not looked at."""
        return self.fresh(0)

    def fresh(self, seed: int) -> Network:
        """Returns the full network, newly initialised and without dropout."""
        network = build_network(self.target.spec, seed)
        for module in network.model.modules():
            if isinstance(module, Dropout):
                module.p = 0.0
        return network

    @property
    def recipe(self) -> Recipe:
        """How is searched and trained."""
        batch, peak = self.options.batch, self.options.lr
        return Recipe(
            name="latency_worth",
            label_smoothing=0.0,
            search=Schedule(1, batch, peak / 10, peak, peak / 10, 0.05, 4e-5),
            train=Schedule(1, batch, peak / 10, peak, 0.0, 0.05, 4e-5),
        )

    @property
    def limit_ms(self) -> float:
        """The budget in milliseconds."""
        return parse_latency(self.options.latency).resolve(self.target.model.full_ms)

    def timed(self, factor: float = 1.0, aim: float = 1.0, **which: Any) -> SearchProblem:
        """Returns the search under the budget in time.

        Args:
            factor: By how much the latency table is corrected.
            aim: The share of the budget that a plan may take.
            **which: As for `problem`.
        """
        model = self.target.model.scaled(factor)
        text = f"{aim * self.limit_ms:.9f}ms"
        return self.problem(latency_budget(text, model), **which)

    def counted(self, flops: str = "100%", **which: Any) -> SearchProblem:
        """Returns the search under a FLOPs budget."""
        return self.problem(*asked_budgets(flops=flops), **which)

    def problem(
        self, *budgets: AskedBudget, network: Network | None = None, seed: int = 0
    ) -> SearchProblem:
        """Returns the search under some budgets, or raises DmcpError where none can meet them."""
        network, recipe = network or self.network, self.recipe
        accounting, space, grid, limits = plan_problem(network, budgets, self.options.align, recipe)
        asked = {"budget": None, "latency": self.options.latency}
        nothing = {"data_digest": "", "weights_digest": None, "recipe": {}}
        return SearchProblem(
            network=network,
            accounting=accounting,
            space=space,
            grid=grid,
            limits=limits,
            data=None,
            recipe=recipe,
            request=RunRequest(network=network.spec, seed=seed, **asked, **nothing),
            compute=Compute(),
            precision=choose_precision("cpu", "fp32"),
            folder=self.options.work,
        )


def decoded(
    setup: Setup, arm: str, found: Searched, factor: float = 1.0, aim: float = 1.0
) -> ChannelPlan:
    """Returns an arm's plan within the budget in time.

    Args:
        setup: The target and its budget.
        arm: One of `ARMS`.
        found: What the searches have left.
        factor: By how much the latency table is corrected.
        aim: The share of the budget that the plan may take.

    Raises:
        DmcpError: No plan meets it.
    """
    problem = setup.timed(factor, aim)
    if arm == LATENCY:
        widths = nearest_widths(problem, np.array(found.latency), problem.limits)
    elif arm in (FLOPS, FLOPS_ON_STEPS):
        counted = setup.counted()
        grid = counted.grid if arm == FLOPS else problem.grid
        fitted = replace(counted, grid=grid)
        widths = as_quick(fitted, np.array(found.flops), problem.limits.limits[0])[0]
    elif arm == UNIFORM:
        widths = problem.space.widths(problem.uniform_units(problem.limits))
    else:
        widths = _knapsack(problem, np.array(found.scores))
    return make_plan(problem, widths, arm, setup.options.align)


def as_quick(
    problem: SearchProblem, wanted: np.ndarray, time: Limit
) -> tuple[Mapping[str, int], int]:
    """Returns the slowest plan within a budget in time among those of FLOPs budgets, and its own.

    FLOPs budgets are bisected, without a search for each: plans are decoded from the units
    [groups] that one search expects to keep.
    """
    accounting, space = problem.accounting, problem.space
    low, high = accounting.macs(problem.grid.low), accounting.full_macs
    best = space.widths(problem.grid.low), low
    for _ in range(_BISECTIONS):
        flops = math.isqrt(low * high)
        widths = nearest_widths(problem, wanted, flops_limits(str(flops), accounting, space))
        ms = time.cost.at(accounting.units(widths))
        if ms > time.most:
            high = flops
            continue
        low = flops
        if ms >= time.cost.at(accounting.units(best[0])):
            best = widths, flops
    return best


def _knapsack(problem: SearchProblem, scores: np.ndarray) -> Mapping[str, Keep]:
    """Returns what a knapsack keeps that is modelled on HALP.

    As there, channels are ranked within their group, and those are kept whose importances add up
    to the most within the time of a latency table, step by step of its staircase. Other than
    there, the knapsack is solved exactly, with what the width of a layer's input costs, and once,
    not in 30 steps with training between them.
    Source: Shen et al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022.
    """
    axes = problem.grid.spread_axes()
    worth = []
    for group, axis in zip(problem.network.prunable, axes, strict=True):
        ranked = np.sort(scores[group.first : group.first + group.units])[::-1]
        worth.append(np.cumsum(ranked)[axis - 1])
    units = decode(problem.limits, axes, worth, least=LOWEST_SHARE).units
    return keeps(problem.network, top_units(problem.network, scores, units))
