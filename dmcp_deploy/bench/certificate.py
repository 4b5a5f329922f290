"""The certificate of a budget in time: asked, predicted, measured, round by round."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import LATER_IF_SET, encode, load_artifact, write_artifact
from dmcp_deploy.bench.ratio import (
    LEAST_ROUNDS,
    NOISY,
    WIDEST_EQUALITY,
    latency_ratio,
    median_interval,
)
from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.measure import Setting
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.units import format_ms, parse_latency

KIND = "latency-certificate"
FILE = "certificate.json"

MET, MISSED = "met", "missed"
PREDICTED = "predicted, not measured here"

#: Plans that are measured at most before the pruned network is trained.
ROUNDS = 3
#: By how much of the budget a plan may exceed it and still meet it: two loads differ by more.
_OVER = 0.01
#: What may be left of the budget before another plan is tried.
_WASTE = 0.05


@dataclass(frozen=True)
class Seen:
    """What was measured of a plan, in milliseconds: the median and its 95% interval."""

    ms: float
    low_ms: float
    high_ms: float

    @property
    def is_sure(self) -> bool:
        """Whether the interval is narrow enough to say anything of a budget."""
        return self.high_ms <= self.ms * (1 + WIDEST_EQUALITY) and self.low_ms >= self.ms * (
            1 - WIDEST_EQUALITY
        )


@dataclass(frozen=True)
class Round:
    """One plan that was tried.

    Attributes:
        plan: The plan.
        table_ms: What the latency table alone predicts.
        factor: By how much the table was corrected when the plan was decoded.
        record: The full network and the plan's, measured interleaved; None before that.
    """

    plan: ChannelPlan
    table_ms: float
    factor: float = 1.0
    record: BenchRecord | None = field(default=None, metadata=LATER_IF_SET)

    @property
    def predicted_ms(self) -> float:
        """What the corrected table predicts."""
        return self.table_ms * self.factor


@dataclass(frozen=True)
class Certificate:
    """How a plan keeps its budget in time.

    Attributes:
        asked: The budget as the user wrote it.
        limit_ms: The most that a call may take.
        full_ms: What the latency table says of the full network, which a share refers to.
        setting: Runtime, precision, threads and batch of the target.
        device: What the table was measured on.
        ran_by: What ran its probes, with its version.
        table_digest: The table.
        rounds: The plans that were tried, in turn.
    """

    asked: str
    limit_ms: float
    full_ms: float
    setting: Setting
    device: str
    ran_by: str
    table_digest: str
    rounds: tuple[Round, ...] = ()

    @cached_property
    def seen(self) -> tuple[Seen | None, ...]:
        """What was measured of the plan of each round; None where nothing was.

        Of a budget that is a share it is the ratio to the full network, in milliseconds of the
        table's full network: what the machine drifted since cancels.
        """
        records = (item.record for item in self.rounds)
        return tuple(None if record is None else self._see(record) for record in records)

    @cached_property
    def place(self) -> int:
        """The round whose plan the run keeps: the slowest that meets the budget, else the last."""
        if self.seen[-1] is None:
            return len(self.rounds) - 1
        met = [(seen.ms, n) for n, seen in enumerate(self.seen) if seen and self._is_within(seen)]
        return max(met, default=(0.0, len(self.rounds) - 1))[1]

    @property
    def chosen(self) -> Round:
        """The round whose plan the run keeps."""
        return self.rounds[self.place]

    @property
    def chosen_seen(self) -> Seen | None:
        """What was measured of the plan that the run keeps."""
        return self.seen[self.place]

    @property
    def verdict(self) -> str:
        """What is known of the plan: "met", "missed", "too noisy to tell" or PREDICTED."""
        return self.verdict_on(self.place)

    def verdict_on(self, place: int) -> str:
        """Returns what is known of the plan of a round."""
        seen, record = self.seen[place], self.rounds[place].record
        if seen is None or record is None:
            return PREDICTED
        if seen.low_ms > self.limit_ms * (1 + _OVER):
            return MISSED
        rounds = len(record.measured[0].samples_ms)
        if rounds < LEAST_ROUNDS or not seen.is_sure or not self._is_within(seen):
            return NOISY
        return MET

    def correction(self) -> float | None:
        """Returns by how much the table is to be corrected for the next plan; None at the end.

        The last plan missed the budget, or leaves more than 5% of it.
        """
        seen = self.seen[-1]
        if seen is None:
            return None
        if self._is_within(seen) and seen.high_ms >= self.limit_ms * (1 - _WASTE):
            return None
        return seen.ms / self.rounds[-1].table_ms

    def with_round(self, item: Round) -> Certificate:
        """Returns the certificate with another round."""
        return replace(self, rounds=(*self.rounds, item))

    def with_record(self, record: BenchRecord) -> Certificate:
        """Returns the certificate with what was measured of its plan.

        A plan that was measured before gets a round of its own.
        """
        item = replace(self.chosen, record=record)
        kept = self.rounds[:-1] if self.rounds[-1].record is None else self.rounds
        return replace(self, rounds=(*kept, item))

    def _see(self, record: BenchRecord) -> Seen:
        full, pruned = record.measured
        if parse_latency(self.asked).share is None:
            samples = pruned.samples_ms
            return Seen(statistics.median(samples), *median_interval(samples))
        ratio = latency_ratio(full.samples_ms, pruned.samples_ms)
        return Seen(*(self.full_ms * value for value in (ratio.value, ratio.low, ratio.high)))

    def _is_within(self, seen: Seen) -> bool:
        return seen.ms <= self.limit_ms * (1 + _OVER)

    def save(self, path: Path) -> None:
        """Writes the certificate as JSON, what it comes to at the top."""
        write_artifact(path, KIND, {**told(self), **encode(self)})

    @classmethod
    def load(cls, path: Path) -> Certificate:
        """Returns the certificate in a file.

        Raises:
            DmcpError: The file is absent, damaged, of another kind or schema version.
        """
        certificate = load_artifact(path, KIND, cls, f"The certificate {path}")
        if not certificate.rounds or certificate.limit_ms <= 0:
            raise DmcpError(f"The certificate {path} holds no plan that was tried: delete it.")
        return certificate


def certificate_text(certificate: Certificate) -> str:
    """Returns a certificate in one line: asked, predicted, measured, verdict, device."""
    chosen, asked = certificate.chosen, certificate.asked
    if parse_latency(asked).share is not None:
        asked = f"{asked} of {format_ms(certificate.full_ms)}, {format_ms(certificate.limit_ms)}"
    words = [f"Latency budget {asked}: predicted {format_ms(chosen.predicted_ms)}"]
    if (seen := certificate.chosen_seen) is not None:
        low, high = format_ms(seen.low_ms), format_ms(seen.high_ms)
        words.append(f"measured {format_ms(seen.ms)} [{low}, {high}]")
    setting = certificate.setting
    threads = f", {setting.threads} thread(s)" if setting.threads else ""
    where = f"{certificate.ran_by}{threads}, batch {setting.batch}, {certificate.device}"
    return f"{', '.join(words)}: {certificate.verdict} ({where})"


def told(certificate: Certificate) -> dict[str, Any]:
    """Returns what a reader of the file looks for first; it is not read back."""
    seen, setting = certificate.chosen_seen, certificate.setting
    return {
        "asked": certificate.asked,
        "limit_ms": certificate.limit_ms,
        "verdict": certificate.verdict,
        "predicted_ms": certificate.chosen.predicted_ms,
        "measured_ms": None if seen is None else seen.ms,
        "interval_ms": None if seen is None else [seen.low_ms, seen.high_ms],
        "device": certificate.device,
        "ran_by": certificate.ran_by,
        "setting": encode(setting),
    }
