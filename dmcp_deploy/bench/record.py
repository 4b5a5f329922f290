"""The latency record: raw samples, and what is derived from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import (
    LATER,
    LATER_IF_SET,
    decode,
    encode,
    read_artifact,
    well_formed,
    write_artifact,
)
from dmcp_deploy.bench.ratio import latency_ratio
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.registry import ENGINE_RUNTIMES
from dmcp_deploy.runtimes.sampler import TIMINGS, WALL, WALL_TRANSFERS

KIND = "bench"


@dataclass(frozen=True)
class Measured:
    """One network measured at one batch size.

    Attributes:
        name: What the network is called in the record.
        path: Name of the file that was run.
        digest: SHA-256 of that file.
        macs: Multiply-adds for one image.
        params: Stored weights of the file.
        batch: Images per call.
        runtime: What ran it, such as "onnxruntime".
        threads: Threads asked for; 0 is the runtime's own choice.
        samples_ms: Latency of every call; sample i of all networks at this batch size was taken
            in the same round.
        timing: What a sample is: "wall", "events", "events+graph" or "wall with transfers" (see
            `runtimes.sampler`).
        precision: What the file computes in, one of `registry.PRECISIONS`; None if not known.
        weight_bytes: Bytes of its weights; None if not known.
        file_bytes: Bytes of the file; None if not known.
    """

    name: str
    path: str
    digest: str
    macs: int
    params: int
    batch: int
    runtime: str
    threads: int
    samples_ms: tuple[float, ...]
    timing: str = WALL
    precision: str | None = field(default=None, metadata=LATER)
    weight_bytes: int | None = field(default=None, metadata=LATER)
    file_bytes: int | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if not self.samples_ms:
            raise DmcpError(f"{self.name} has no latency samples at batch {self.batch}.")
        bad = [ms for ms in self.samples_ms if not (math.isfinite(ms) and ms > 0)]
        if bad:
            raise DmcpError(
                f"{self.name} has a latency sample of {bad[0]} ms at batch {self.batch}:"
                " samples are finite and above zero."
            )
        if self.macs < 1 or self.batch < 1:
            raise DmcpError(
                f"{self.name} has {self.macs} multiply-adds and batch {self.batch}:"
                " both must be 1 or more."
            )
        if self.timing not in TIMINGS:
            raise DmcpError(
                f"{self.name} is timed as {self.timing!r}, which this release does not know, but"
                f" {', '.join(TIMINGS)}."
            )

    @property
    def median_ms(self) -> float:
        """Latency of the middle call."""
        return statistics.median(self.samples_ms)

    @property
    def p90_ms(self) -> float:
        """Latency that 90% of the calls stay below (linear between samples)."""
        return _percentile(self.samples_ms, 0.90)

    @property
    def p99_ms(self) -> float:
        """Latency that 99% of the calls stay below (linear between samples)."""
        return _percentile(self.samples_ms, 0.99)

    @property
    def mean_ms(self) -> float:
        """Mean latency, the slow calls included."""
        return statistics.fmean(self.samples_ms)

    @property
    def cov(self) -> float:
        """Coefficient of variation: standard deviation / mean; 0 for a single sample."""
        return statistics.pstdev(self.samples_ms) / self.mean_ms

    @property
    def throughput_per_s(self) -> float:
        """Images per second of calls made back to back: batch / mean, so slow calls count."""
        return self.batch / self.mean_ms * 1e3

    @property
    def gmacs_per_s(self) -> float:
        """Multiply-adds per second of the middle call, in 10^9."""
        return self.macs * self.batch / self.median_ms / 1e6


@dataclass(frozen=True)
class BenchRecord:
    """Networks measured together; the first is the one that the others are compared with.

    Attributes:
        measured: Every network at every batch size.
        environment: The machine and the libraries (see `machine.environment`).
        input_shape: (C, H, W).
        alone: Whether each sample stands behind calls of the same network, which then finds its
            weights in the caches as where it runs alone; else behind one of another.
    """

    measured: tuple[Measured, ...]
    environment: Mapping[str, Any]
    input_shape: tuple[int, int, int] = field(metadata={"json": "input"})
    alone: bool = field(default=False, metadata=LATER_IF_SET)

    def __post_init__(self) -> None:
        if not self.measured:
            raise DmcpError("A latency record needs at least one measured network.")
        for batch in self.batches:
            group = self.at_batch(batch)
            if len({item.name for item in group}) < len(group):
                raise DmcpError(f"A network is measured twice at batch {batch} in one record.")
            if len({len(item.samples_ms) for item in group}) > 1:
                raise DmcpError(
                    f"The networks have different numbers of samples at batch {batch}:"
                    " they were not measured in the same rounds."
                )

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes, in the order in which they were measured."""
        return tuple(dict.fromkeys(item.batch for item in self.measured))

    def at_batch(self, batch: int) -> list[Measured]:
        """Returns what was measured at a batch size, in the order of the record.

        Raises:
            DmcpError: Nothing was.
        """
        networks = [item for item in self.measured if item.batch == batch]
        if not networks:
            known = ", ".join(map(str, self.batches))
            raise DmcpError(f"The record holds no batch {batch}; it holds {known}.")
        return networks

    def save(self, path: Path) -> None:
        """Writes the record as JSON, all samples included."""
        # The samples come last, where they hide nothing.
        content = encode(self)
        measured = content.pop("measured")
        write_artifact(path, KIND, {**content, "measured": measured})

    @classmethod
    def load(cls, path: Path) -> BenchRecord:
        """Returns the record in a file.

        Raises:
            DmcpError: The file is absent, damaged, of another kind or schema version, or holds
                samples that no measurement gives.
        """
        content = read_artifact(path, KIND)
        with well_formed(f"The latency record {path}"):
            measured = [{**_timing_of_old(item), **item} for item in content["measured"]]
            return decode(cls, {**content, "measured": measured})


@dataclass(frozen=True)
class Comparison:
    """One network against the record's first, at one batch size.

    Attributes:
        name: The network.
        batch: Images per call.
        flops_ratio: Its multiply-adds / the first's.
        latency_ratio: Median over the rounds of its latency / the first's.
        latency_low: Lower end of the 95% interval of the latency ratio.
        latency_high: Its upper end.
        efficiency: FLOPs ratio / latency ratio: 1 where time fell as much as the multiply-adds.
        verdict: "faster", "slower", "no difference" or "too noisy to tell" (see `bench.ratio`).
    """

    name: str
    batch: int
    flops_ratio: float
    latency_ratio: float
    latency_low: float
    latency_high: float
    efficiency: float
    verdict: str


def compared(record: BenchRecord) -> list[tuple[Measured, Comparison | None]]:
    """Returns every network, each with its comparison with the first at its batch size.

    The first ones have None.
    """
    pairs: list[tuple[Measured, Comparison | None]] = []
    for batch in record.batches:
        pairs += zip(record.at_batch(batch), (None, *compare(record, batch)), strict=True)
    return pairs


def compare(record: BenchRecord, batch: int) -> list[Comparison]:
    """Returns every network but the first against the first, at one batch size.

    Raises:
        DmcpError: The record holds nothing at this batch size.
    """
    base, *others = record.at_batch(batch)
    return [_compare_two(base, item) for item in others]


def _compare_two(base: Measured, item: Measured) -> Comparison:
    flops = item.macs / base.macs
    latency = latency_ratio(base.samples_ms, item.samples_ms)
    return Comparison(
        name=item.name,
        batch=item.batch,
        flops_ratio=flops,
        latency_ratio=latency.value,
        latency_low=latency.low,
        latency_high=latency.high,
        efficiency=flops / latency.value,
        verdict=latency.verdict,
    )


def _timing_of_old(content: Mapping[str, Any]) -> dict[str, str]:
    """Returns how the first release timed, which did not say so: engines with transfers."""
    of_engine = content["runtime"].startswith(ENGINE_RUNTIMES)
    return {"timing": WALL_TRANSFERS if of_engine else WALL}


def _percentile(samples: tuple[float, ...], share: float) -> float:
    ranked = sorted(samples)
    place = share * (len(ranked) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)
