"""A latency record as a plain text table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dmcp_deploy.bench.advice import noise_advice
from dmcp_deploy.bench.ratio import NOISY
from dmcp_deploy.bench.record import BenchRecord, Comparison, Measured, compare
from dmcp_deploy.runtimes.sampler import TIMINGS, WALL
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
    pairs = [pair for batch in record.batches for pair in _rows(record, batch)]
    shown = [column for column in _COLUMNS if wide or _is_shown(column, record)]
    cells = [[column.title for column in shown]]
    cells += [[column.cell(*pair) for column in shown] for pair in pairs]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    lines = [_format_row(row, shown, widths) for row in cells]
    return "\n".join([*lines, *_notes(record, [found for _, found in pairs])])


def _rows(record: BenchRecord, batch: int) -> list[tuple[Measured, Comparison | None]]:
    base, *others = record.at_batch(batch)
    return [(base, None), *zip(others, compare(record, batch), strict=True)]


def _is_shown(column: _Column, record: BenchRecord) -> bool:
    if column.title in _WHERE_DIFFERENT:
        return len({column.cell(item, None) for item in record.measured}) > 1
    return column.title not in _WIDE


def _notes(record: BenchRecord, found: Sequence[Comparison | None]) -> list[str]:
    timings = {item.timing for item in record.measured}
    notes = []
    if len(timings) == 1 and timings != {WALL}:
        notes.append(f"Timed {TIMINGS[timings.pop()]}.")
    if any(item is not None and item.verdict == NOISY for item in found):
        notes.append(noise_advice(record))
    return notes


def _format_row(row: Sequence[str], columns: Sequence[_Column], widths: Sequence[int]) -> str:
    cells = (
        cell.ljust(width) if column.of_words else cell.rjust(width)
        for column, cell, width in zip(columns, row, widths, strict=True)
    )
    return "  ".join(cells).rstrip()


def _bytes(size: int | None) -> str:
    return "" if size is None else format_bytes(size)


def _ratio(found: Comparison | None) -> str:
    if found is None:
        return "1.00"
    return f"{found.latency_ratio:.2f} [{found.latency_low:.2f}, {found.latency_high:.2f}]"


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
    _Column("FLOPs ratio", lambda _, found: f"{found.flops_ratio:.2f}" if found else "1.00"),
    _Column("latency ratio [95%]", lambda _, found: _ratio(found)),
    _Column("efficiency", lambda _, found: f"{found.efficiency:.2f}" if found else "1.00"),
    _Column("verdict", lambda _, found: found.verdict if found else "reference", of_words=True),
)
#: Columns that are shown if asked for, and those that else are shown where networks differ.
_WIDE = {"params", "weights", "file", "mean ms", "p99 ms"}
_WHERE_DIFFERENT = {"runtime", "precision", "timing"}
