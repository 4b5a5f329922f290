"""What a comparison has found, cell by cell, as one artifact."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import write_artifact
from dmcp_deploy.bench.certificate import Certificate
from dmcp_deploy.bench.record import BenchRecord, compare
from dmcp_deploy.comparison.cells import Cell
from dmcp_deploy.report.facts import Judged
from dmcp_deploy.report.gather import gather
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.stages import SEARCH, TRAIN, Stage

KIND = "comparison"

#: The stage in which a cell's network is measured beside the full one, and its record.
LATENCY = Stage("latency")
LATENCY_FILE = "latency.json"


@dataclass(frozen=True)
class Latency:
    """The pruned network's time beside the full network's, interleaved, in the smallest batch.

    Attributes:
        median_ms: Of the pruned network.
        full_ms: Of the full network.
        ratio: Median over the rounds of their ratio.
        low: Lower end of its 95% interval.
        high: Its upper end.
    """

    median_ms: float
    full_ms: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class TimeKept:
    """What certifies how a cell's plan keeps its budget in time.

    Attributes:
        limit_ms: The most that a call may take.
        predicted_ms: What the latency table says of the plan, corrected by plans measured before.
        measured_ms: Median of what was measured; None on another device than the table's.
        verdict: As in the certificate: "met", "missed", ...
        device: What the table was measured on.
    """

    limit_ms: float
    predicted_ms: float
    measured_ms: float | None
    verdict: str
    device: str


@dataclass(frozen=True)
class CellResult:
    """One finished run of a comparison.

    Attributes:
        cell: Method, budget and seed.
        top1: Accuracy of the trained network in [0, 1].
        loss: Its cross entropy.
        images: Validation images both were taken on.
        image_size: Their side in pixels; "32x96", height and width, where they are oblong.
        untrained_top1: Accuracy of the sliced network before its training; None if not taken.
        channels: Group -> channels kept.
        macs: Multiply-adds of the network.
        budget_macs: The budget in multiply-adds; None if there is none.
        budget_share: The largest share that its plan takes of any budget, as it was searched.
        time_kept: How it keeps its budget in time; None if there is none.
        params: Parameters of the network.
        search_steps: Weight steps of the search that has trained its weights.
        plans_judged: Candidate networks that the search evaluated.
        search_s: How long that search took, since it was last continued.
        train_steps: Steps of the pruned network's training.
        train_s: How long that took, since it was last continued.
        latency: None before the measurement.
    """

    cell: Cell
    top1: float
    loss: float
    images: int
    image_size: int | str
    untrained_top1: float | None
    channels: Mapping[str, int]
    macs: int
    budget_macs: int | None
    budget_share: float
    time_kept: TimeKept | None
    params: int
    search_steps: int
    plans_judged: int
    search_s: float
    train_steps: int
    train_s: float
    latency: Latency | None


@dataclass(frozen=True)
class FullResult:
    """The full network of one seed, which all methods start from.

    Attributes:
        seed: Of its training.
        top1: Accuracy in [0, 1].
        macs: Multiply-adds.
        train_s: How long its training took, since it was last continued.
    """

    seed: int
    top1: float
    macs: int
    train_s: float


@dataclass(frozen=True)
class Comparison:
    """All that a comparison has found.

    Attributes:
        request: What was asked for.
        environment: Machine and libraries.
        full: The full networks; empty if they were given.
        results: The finished cells.
        failures: Cell -> why it has none.
    """

    request: Mapping[str, Any]
    environment: Mapping[str, Any]
    full: tuple[FullResult, ...]
    results: tuple[CellResult, ...]
    failures: Mapping[str, str]

    def save(self, path: Path) -> None:
        """Writes the comparison as JSON."""
        write_artifact(path, KIND, dataclasses.asdict(self))


def read_cell(cell: Cell, folder: Path) -> CellResult:
    """Returns what the finished run of a cell has found, in the folder of a comparison.

    Raises:
        DmcpError: The run is not finished, or a file of it is damaged.
    """
    run = RunDir(folder / cell.folder)
    facts = gather(run.path, str(cell))
    trained = facts if cell.lender is None else gather(folder / cell.lender.folder, str(cell))
    plan, accuracy, searched = facts.plan, facts.final_accuracy, run.figures(SEARCH)
    untrained = facts.accuracy(Judged.SLICED)
    assert plan is not None
    assert accuracy is not None
    return CellResult(
        cell=cell,
        top1=accuracy.top1,
        loss=accuracy.loss,
        images=accuracy.images,
        image_size=accuracy.image_size,
        untrained_top1=None if untrained is None else untrained.top1,
        channels=plan.widths(),
        macs=plan.macs,
        budget_macs=plan.budget_macs,
        budget_share=max(budget.share for budget in plan.budgets()),
        time_kept=None if facts.certificate is None else _time_kept(facts.certificate),
        params=plan.params,
        search_steps=len(trained.search_steps),
        plans_judged=int(searched.get("plans_judged", 0)),
        search_s=trained.stage_seconds[SEARCH],
        train_steps=len(facts.train_steps),
        train_s=facts.stage_seconds[TRAIN],
        latency=_latency(run),
    )


def read_full(seed: int, folder: Path) -> FullResult:
    """Returns what the finished run of a full network has found."""
    facts = gather(folder, folder.name)
    plan, accuracy = facts.plan, facts.final_accuracy
    assert plan is not None
    assert accuracy is not None
    return FullResult(seed, accuracy.top1, plan.macs, facts.stage_seconds[TRAIN])


def _time_kept(certificate: Certificate) -> TimeKept:
    seen = certificate.chosen_seen
    return TimeKept(
        limit_ms=certificate.limit_ms,
        predicted_ms=certificate.chosen.predicted_ms,
        measured_ms=None if seen is None else seen.ms,
        verdict=certificate.verdict,
        device=certificate.device,
    )


def _latency(run: RunDir) -> Latency | None:
    if LATENCY not in run.stages():
        return None
    record = BenchRecord.load(run.file(LATENCY_FILE))
    batch = min(record.batches)
    full, pruned = record.at_batch(batch)
    (to_full,) = compare(record, batch)
    ratios = (to_full.latency_ratio, to_full.latency_low, to_full.latency_high)
    assert all(map(math.isfinite, ratios))
    return Latency(pruned.median_ms, full.median_ms, *ratios)
