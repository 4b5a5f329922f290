"""The latency gate: a network against an older one, both measured now, and judged."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dmcp_deploy.bench.advice import noise_advice
from dmcp_deploy.bench.artifacts import Artifact
from dmcp_deploy.bench.decision import (
    LEAST_LOADS,
    REGRESSION,
    Decision,
    Load,
    decide_by_loads,
)
from dmcp_deploy.bench.lineup import Image, Lineup
from dmcp_deploy.bench.measure import line_up
from dmcp_deploy.bench.ratio import NOISY
from dmcp_deploy.bench.record import BenchRecord, Measured
from dmcp_deploy.bench.timing import is_turned, time_interleaved
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.runtimes.sampler import Sampler
from dmcp_deploy.text_table import columns

#: Most seconds for each batch size, loading included; a clear case takes a quarter of it.
GATE_SECONDS = 4.0

_PART_S = 0.1
_WARMUP_S = 0.02
_LIMIT = re.compile(r"(?P<number>\d{1,4}(\.\d{1,6})?)\s*%")

_HEAD = ("network", "batch", "before ms", "now ms", "ratio [99%]", "verdict")
#: A context that holds the old and the new network loaded, the new one first if asked to.
Opened = Callable[[bool], contextlib.AbstractContextManager[tuple["Call", "Call"]]]
Call = Callable[[], object] | Sampler


@dataclass(frozen=True)
class GateRow:
    """One network at one batch size, before and now.

    Attributes:
        name: The network.
        batch: Images per call.
        before_ms: Median latency of the old file, or of the stored record.
        now_ms: Median latency of the new one.
        decision: Their ratio, its 99% interval and the verdict.
    """

    name: str
    batch: int
    before_ms: float
    now_ms: float
    decision: Decision


@dataclass(frozen=True)
class GateResult:
    """What a gate found.

    Attributes:
        rows: Every network at every batch size.
        limit: The slowdown that is allowed: 0.05 for 5%.
        notes: What to know when reading the ratios.
        record: All samples that were taken.
    """

    rows: tuple[GateRow, ...]
    limit: float
    notes: tuple[str, ...]
    record: BenchRecord

    @property
    def is_regression(self) -> bool:
        """Whether any network is slower than allowed, for certain."""
        return any(row.decision.verdict == REGRESSION for row in self.rows)

    @property
    def is_noisy(self) -> bool:
        """Whether any network may be slower than allowed or not."""
        return any(row.decision.verdict == NOISY for row in self.rows)


def parse_limit(text: str) -> float:
    """Returns the slowdown that a text such as "5%" allows: 0.05.

    Raises:
        DmcpError: The text is no percentage above zero.
    """
    match = _LIMIT.fullmatch(text.strip())
    if match is None or float(match["number"]) == 0:
        raise DmcpError(
            f"The allowed slowdown {text!r} is not understood: write a percentage above zero, such"
            " as 5%."
        )
    return float(match["number"]) / 100


def gate_against(
    old: tuple[str, Path | Artifact],
    new: tuple[str, Path | Artifact],
    limit: float,
    options: BenchOptions,
    *,
    progress: Progress = NO_PROGRESS,
) -> GateResult:
    """Returns whether a network is slower than an older one, both measured now, interleaved.

    Both are loaded anew several times, in alternating order, until the ratio's interval lies on
    one side of the limit or the time is over.

    Args:
        old: Name and file, or artifact, of the network to compare with.
        new: Those of the network that is judged; another name.
        limit: Slowdown that is allowed: 0.05 for 5%.
        options: How to measure; the seconds are the most for each batch size, loading included,
            and eight loads are always made.
        progress: Told of every batch size that is judged.

    Raises:
        DmcpError: As `measure_artifacts` does.
    """
    batches = options.batches
    lineup = line_up(dict((old, new)), options)
    ready = lineup.check(batches)
    rows: list[GateRow] = []
    measured: list[Measured] = []
    with (
        progress.task("latency gate", total=len(set(batches)), unit="batch") as bar,
        lineup.watched(ready, batches) as environment,
    ):
        for batch in dict.fromkeys(batches):
            race = Race(_opened(lineup, ready.image, batch), options.seconds)
            decision = decide_by_loads(race.loads(), limit)
            pair = ready.measured(batch, {old[0]: race.old_ms, new[0]: race.new_ms})
            rows.append(GateRow(new[0], batch, pair[0].median_ms, pair[1].median_ms, decision))
            measured += pair
            bar.advance()
    record = BenchRecord(tuple(measured), environment, ready.image)
    note = f"Both were measured now, side by side, and so is the ratio taken; before is {old[0]}."
    return GateResult(tuple(rows), limit, (note,), record)


def format_gate(result: GateResult) -> str:
    """Returns what a gate found as a plain text table, and how to read it."""
    return "\n".join(
        [
            columns([_HEAD, *map(_cells, result.rows)], right=(1, 2, 3, 4)),
            f"Allowed is a slowdown of {result.limit * 100:g}%; intervals are of 99%.",
            *result.notes,
            *([noise_advice(result.record)] if result.is_noisy else []),
        ]
    )


class Race:
    """An old and a new network, loaded and measured again and again.

    Attributes:
        old_ms: All samples of the old one so far.
        new_ms: All samples of the new one.
    """

    def __init__(self, opened: Opened, seconds: float) -> None:
        self._opened, self._seconds = opened, seconds
        self.old_ms: list[float] = []
        self.new_ms: list[float] = []

    def loads(self) -> Iterator[Load]:
        """Yields the samples of load after load, eight at least, until the time is over.

        Loads come in pairs of either order, in the order of the Thue-Morse sequence: memory that
        is freed is taken again, so that turns of two could leave either network in the same
        place load after load. Between two loads nothing stays loaded.
        """
        start, count = time.perf_counter(), 0
        while count < LEAST_LOADS or count % 2 or self._has_time(start, count):
            old_ms, new_ms = self._measure(new_first=is_turned(count))
            self.old_ms += old_ms
            self.new_ms += new_ms
            count += 1
            yield old_ms, new_ms

    def _has_time(self, start: float, count: int) -> bool:
        """Returns whether another pair of loads ends in time, if it takes as long as the others."""
        elapsed = time.perf_counter() - start
        return elapsed * (count + 2) / count <= self._seconds

    def _measure(self, new_first: bool) -> Load:
        start = time.perf_counter()
        with self._opened(new_first) as (old, new):
            load_s = time.perf_counter() - start
            # Measure for as long as loading took, unless fewer than eight loads would then fit.
            part_s = max(_PART_S, min(load_s, self._seconds / LEAST_LOADS - load_s))
            samples = time_interleaved({"old": old, "new": new}, seconds=part_s, warmup_s=_WARMUP_S)
        return samples["old"], samples["new"]


def _opened(lineup: Lineup, image: Image, batch: int) -> Opened:
    @contextlib.contextmanager
    def calls(new_first: bool) -> Iterator[tuple[Call, Call]]:
        with lineup.opened(image, batch, last_first=new_first) as samplers:
            old, new = samplers.values()
            yield old, new

    return calls


def _cells(row: GateRow) -> tuple[str, ...]:
    decision = row.decision
    interval = f"[{decision.low:.3f}, {decision.high:.3f}]"
    times = (f"{row.before_ms:.3f}", f"{row.now_ms:.3f}")
    ratio = f"{decision.ratio:.3f} {interval}"
    return (row.name, str(row.batch), *times, ratio, decision.verdict)
