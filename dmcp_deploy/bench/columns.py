"""A latency record as a plain text table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dmcp_deploy.bench.advice import noise_advice
from dmcp_deploy.bench.ratio import NOISY
from dmcp_deploy.bench.record import BenchRecord, Comparison, Measured, compared
from dmcp_deploy.runtimes.sampler import TIMINGS, WALL
from dmcp_deploy.text_table import columns
from dmcp_deploy.units import format_bytes, format_macs


@dataclass(frozen=True)
class _Column:
    """One column; words are set flush left, numbers right."""

    title: str
    cell: Callable[[Measured, Comparison | None], str]
    of_words: bool = False


def format_table(record: BenchRecord, wide: bool = False) -> str:
    """Returns the record as a plain text table; ratios are to the first network.

    The latency ratio is followed by its 95% interval; efficiency is FLOPs ratio / latency ratio;
    GMAC/s are multiply-adds in the median time. Below it stands how a GPU was timed, and what to
    do where the verdict is "too noisy to tell".

    Args:
        record: The record.
        wide: Whether all columns are shown; else runtime, precision and timing are only where
            the networks differ in them.
    """
    pairs = compared(record)
    shown = [column for column in _COLUMNS if wide or _is_shown(column, record)]
    rows = [[column.title for column in shown]]
    rows += [[column.cell(*pair) for column in shown] for pair in pairs]
    numbers = [place for place, column in enumerate(shown) if not column.of_words]
    notes = _notes(record, [comparison for _, comparison in pairs])
    return "\n".join([columns(rows, numbers), *notes])


def _is_shown(column: _Column, record: BenchRecord) -> bool:
    if column.title in _WHERE_DIFFERENT:
        return len({column.cell(item, None) for item in record.measured}) > 1
    return column.title not in _WIDE


def _notes(record: BenchRecord, comparisons: Sequence[Comparison | None]) -> list[str]:
    timings = {item.timing for item in record.measured}
    notes = []
    if record.alone:
        notes.append("Each network ran right before each of its samples, as where it runs alone.")
    if len(timings) == 1 and timings != {WALL}:
        notes.append(f"Timed {TIMINGS[timings.pop()]}.")
    if any(item is not None and item.verdict == NOISY for item in comparisons):
        notes.append(noise_advice(record))
    return notes


def _bytes(size: int | None) -> str:
    return "" if size is None else format_bytes(size)


def _ratio(to_first: Comparison | None) -> str:
    if to_first is None:
        return "1.00"
    low, high = to_first.latency_low, to_first.latency_high
    return f"{to_first.latency_ratio:.2f} [{low:.2f}, {high:.2f}]"


_COLUMNS = (
    _Column("network", lambda item, _: item.name, of_words=True),
    _Column("runtime", lambda item, _: item.runtime, of_words=True),
    _Column("precision", lambda item, _: item.precision or "", of_words=True),
    _Column("timing", lambda item, _: item.timing, of_words=True),
    _Column("MACs", lambda item, _: format_macs(item.macs)),
    _Column("params", lambda item, _: format_macs(item.params)),
    _Column("weights", lambda item, _: _bytes(item.weight_bytes)),
    _Column("file", lambda item, _: _bytes(item.file_bytes)),
    _Column("batch", lambda item, _: str(item.batch)),
    _Column("median ms", lambda item, _: f"{item.median_ms:.3f}"),
    _Column("mean ms", lambda item, _: f"{item.mean_ms:.3f}"),
    _Column("p90 ms", lambda item, _: f"{item.p90_ms:.3f}"),
    _Column("p99 ms", lambda item, _: f"{item.p99_ms:.3f}"),
    _Column("CoV", lambda item, _: f"{item.cov:.1%}"),
    _Column("images/s", lambda item, _: f"{item.throughput_per_s:.1f}"),
    _Column("GMAC/s", lambda item, _: f"{item.gmacs_per_s:.1f}"),
    _Column("FLOPs ratio", lambda _, ratios: f"{ratios.flops_ratio:.2f}" if ratios else "1.00"),
    _Column("latency ratio [95%]", lambda _, ratios: _ratio(ratios)),
    _Column("efficiency", lambda _, ratios: f"{ratios.efficiency:.2f}" if ratios else "1.00"),
    _Column("verdict", lambda _, ratios: ratios.verdict if ratios else "reference", of_words=True),
)
#: Columns of the wide table alone, and those of the usual one only where networks differ in them.
_WIDE = {"params", "weights", "file", "mean ms", "p99 ms"}
_WHERE_DIFFERENT = {"runtime", "precision", "timing"}
