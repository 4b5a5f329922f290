"""Networks side by side: accuracy against latency and against multiply-adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from dmcp_deploy.bench.record import BenchRecord, Measured
from dmcp_deploy.report.charts import Labels, Point, Series, scatter_chart
from dmcp_deploy.report.facts import RunFacts
from dmcp_deploy.report.markup import Table
from dmcp_deploy.report.scale import percent
from dmcp_deploy.rundir.files import PRUNED
from dmcp_deploy.units import format_macs


@dataclass(frozen=True)
class Candidate:
    """A run that has a trained network.

    Attributes:
        name: The run.
        top1: Accuracy in [0, 1].
        image_size: Side of the images it was taken on, in pixels; "32x96" where they are oblong.
        macs: Multiply-adds of its network.
        latency: Its measurement, in the smallest batch; None if there is none.
        device: What must agree for two latencies to be compared; None without a measurement.
    """

    name: str
    top1: float
    image_size: int | str
    macs: int
    latency: Measured | None
    device: tuple[str, ...] | None


def candidates(runs: Sequence[RunFacts]) -> list[Candidate]:
    """Returns the runs that can be placed by accuracy and multiply-adds."""
    placed = []
    for facts in runs:
        accuracy, plan = facts.final_accuracy, facts.plan
        if accuracy is None or plan is None:
            continue
        latency = None if facts.bench is None else _pruned(facts.bench)
        device = None if facts.bench is None or latency is None else _device(facts.bench, latency)
        placed.append(
            Candidate(facts.name, accuracy.top1, accuracy.image_size, plan.macs, latency, device)
        )
    return placed


def comparable(placed: Sequence[Candidate]) -> list[Candidate]:
    """Returns those measured on the device, input, batch and runtime most runs share."""
    devices = Counter(item.device for item in placed if item.device is not None)
    if not devices:
        return []
    most = devices.most_common(1)[0][0]
    return [item for item in placed if item.device == most]


class Placed(Protocol):
    """What can be placed by its accuracy."""

    @property
    def top1(self) -> float:
        """Accuracy in [0, 1]."""


_Placed = TypeVar("_Placed", bound=Placed)


def frontier(placed: Sequence[_Placed], cost: Callable[[_Placed], float]) -> list[_Placed]:
    """Returns those that none beats in both accuracy and cost, from the cheapest on."""
    ranked = sorted(placed, key=lambda item: (cost(item), -item.top1))
    best: list[_Placed] = []
    for item in ranked:
        if not best or item.top1 > best[-1].top1:
            best.append(item)
    return best


def front_chart(
    labels: Labels,
    placed: Sequence[_Placed],
    cost: Callable[[_Placed], float],
    show: Callable[[float], str],
    point: Callable[[_Placed], Point],
    names_best: bool = False,
) -> str:
    """Returns networks as points of accuracy over cost, with a line along the best.

    Args:
        labels: The chart's words.
        placed: The networks.
        cost: What a network costs.
        show: How a cost is written.
        point: A network's point, but for its place and colour.
        names_best: Whether the best alone are named, however many points there are.
    """
    best = frontier(placed, cost)
    points = []
    for item in placed:
        colour, named = (0, True) if item in best else (1, False)
        drawn = replace(point(item), x=cost(item), y=item.top1, colour=colour)
        points.append(replace(drawn, named=named) if names_best else drawn)
    line = Series("Pareto front", tuple((cost(item), item.top1) for item in best), 0, "dash")
    groups = ("on the front", "behind it") if len(best) < len(placed) else ("on the front",)
    return scatter_chart(labels, points, [line], groups, (show, percent))


def runs_table(runs: Sequence[RunFacts]) -> Table:
    """Returns the runs side by side."""
    head = (
        *("run", "model", "method", "MACs", "of the budget", "top-1", "side in px"),
        *("median ms", "measured on"),
    )
    return Table("Runs", head, tuple(_row(facts) for facts in runs))


def _row(facts: RunFacts) -> tuple[str, ...]:
    plan, accuracy = facts.plan, facts.final_accuracy
    latency = None if facts.bench is None else _pruned(facts.bench)
    shares = [] if plan is None else [budget.share for budget in plan.budgets()]
    share = f"{max(shares):.2%}" if shares else ""
    place: tuple[str, ...] = ()
    if facts.bench is not None and latency is not None:
        place = _device(facts.bench, latency)
    return (
        facts.name,
        facts.request.network.model,
        facts.request.method,
        "" if plan is None else format_macs(plan.macs),
        share,
        "" if accuracy is None else f"{accuracy.top1:.2%}",
        "" if accuracy is None else str(accuracy.image_size),
        "" if latency is None else f"{latency.median_ms:.3f}",
        ", ".join(place),
    )


def _pruned(record: BenchRecord) -> Measured | None:
    """Returns the pruned network in the smallest batch; None in a record of other networks."""
    smallest = record.at_batch(min(record.batches))
    return next((item for item in smallest if item.name == PRUNED), None)


def _device(record: BenchRecord, item: Measured) -> tuple[str, ...]:
    machine = record.environment
    return (
        str(machine.get("cpu") or machine.get("machine") or "unknown machine"),
        f"{machine.get('cores') or '?'} cores",
        item.runtime,
        f"{item.threads or 'all'} threads",
        f"batch {item.batch}",
        "x".join(map(str, record.input_shape)),
    )
