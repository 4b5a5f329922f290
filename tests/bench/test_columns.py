"""The latency table: which columns it has, and what stands in them."""

from __future__ import annotations

import re
from dataclasses import replace

from latency_records import DENSE, PRUNED, RECORD

from dmcp_deploy.bench.columns import format_table
from dmcp_deploy.bench.record import BenchRecord, Measured

USUAL = [
    *("network", "MACs", "batch", "median ms", "p90 ms", "CoV", "images/s", "GMAC/s"),
    *("FLOPs ratio", "latency ratio [95%]", "efficiency", "verdict"),
]


def cells(record: BenchRecord, wide: bool = False) -> list[list[str]]:
    return [re.split(r" {2,}", line) for line in format_table(record, wide).splitlines()]


def pair(**changes: object) -> BenchRecord:
    return BenchRecord((DENSE, replace(PRUNED, **changes)), {}, (3, 224, 224))


def both(**changes: object) -> BenchRecord:
    nets: tuple[Measured, ...] = (replace(DENSE, **changes), replace(PRUNED, **changes))
    return BenchRecord(nets, {}, (3, 224, 224))


def test_the_table_shows_every_figure_under_its_heading() -> None:
    rows = cells(RECORD)
    assert rows[0] == USUAL
    assert rows[1] == [
        *("original", "300.8M", "1", "6.000", "8.000", "33.3%", "166.7", "50.1"),
        *("1.00", "1.00", "1.00", "reference"),
    ]
    assert rows[2] == [
        *("pruned", "150.4M", "1", "4.800", "6.400", "33.3%", "208.3", "31.3"),
        *("0.50", "0.80 [0.80, 0.80]", "0.62", "faster"),
    ]
    assert rows[4][-4:] == ["0.50", "1.05 [1.05, 1.05]", "0.48", "slower"]
    lines = format_table(RECORD).splitlines()
    assert len({line.index(row[-1]) for line, row in zip(lines, rows, strict=True)}) == 1


def test_a_usual_table_is_no_wider_than_a_terminal() -> None:
    noisy = replace(PRUNED, name="a_dozen_char", samples_ms=(1.0, 9.0) * 8)
    table = format_table(BenchRecord((DENSE, noisy), {}, (3, 224, 224)))
    assert max(len(line) for line in table.splitlines()[:-1]) <= 140


def test_precision_timing_and_runtime_show_where_networks_differ_in_them() -> None:
    rows = cells(pair(precision="int8", runtime="openvino fp32"))
    assert rows[0] == ["network", "runtime", "precision", *USUAL[1:]]
    assert rows[2][:3] == ["pruned", "openvino fp32", "int8"]
    assert cells(both(precision="int8"))[0] == USUAL
    timed = cells(pair(timing="events+graph"))
    assert timed[0] == ["network", "timing", *USUAL[1:]]
    assert [row[1] for row in timed[1:]] == ["wall", "events+graph"]


def test_how_a_gpu_was_timed_is_told_below() -> None:
    told = {
        "events": "Timed by CUDA events, without transfers and without a CUDA graph.",
        "events+graph": "Timed by CUDA events, without transfers, as a CUDA graph.",
        "wall with transfers": "Timed by the host's clock, transfers counted.",
    }
    for timing, sentence in told.items():
        assert format_table(both(timing=timing)).splitlines()[3:] == [sentence]
    assert len(format_table(both()).splitlines()) == 3


def test_the_wide_table_shows_all() -> None:
    rows = cells(both(precision="fp16", weight_bytes=7_000_000, file_bytes=7_100_000), wide=True)
    row = dict(zip(rows[0], rows[1], strict=True))
    assert row["weights"] == "7.0 MB"
    assert row["file"] == "7.1 MB"
    assert (row["params"], row["precision"], row["timing"]) == ("3.5M", "fp16", "wall")
    assert (row["mean ms"], row["p99 ms"]) == ("6.000", "8.000")
    assert set(USUAL) < set(rows[0])


def test_the_wide_table_of_an_older_record_has_gaps() -> None:
    lines = format_table(RECORD, wide=True).splitlines()
    start = lines[0].index("weights")
    assert lines[1][start : start + len("weights")].strip() == ""
