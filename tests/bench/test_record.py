from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dmcp_deploy.bench.record import BenchRecord, Comparison, Measured, compare, format_table
from dmcp_deploy.errors import DmcpError

DENSE = Measured(
    name="original",
    path="original.onnx",
    digest="sha256:aa",
    macs=300_774_272,
    params=3_504_872,
    batch=1,
    runtime="onnxruntime",
    threads=1,
    samples_ms=(4.0, 8.0) * 8,
)
PRUNED = replace(
    DENSE,
    name="pruned",
    path="model.onnx",
    digest="sha256:bb",
    macs=150_387_136,
    params=2_000_000,
    samples_ms=(3.2, 6.4) * 8,
)
RECORD = BenchRecord(
    (DENSE, PRUNED, replace(DENSE, batch=8), replace(PRUNED, batch=8, samples_ms=(4.2, 8.4) * 8)),
    {"cpu": "a cpu", "governor": None},
    (3, 224, 224),
)


def test_figures_are_derived_from_the_samples():
    item = replace(DENSE, batch=2, samples_ms=(10.0, 1.0, 2.0, 3.0, 4.0))
    assert item.median_ms == 3.0
    assert item.mean_ms == 4.0
    assert item.p90_ms == pytest.approx(4.0 + 0.6 * 6.0)
    assert item.p99_ms == pytest.approx(4.0 + 0.96 * 6.0)
    assert item.cov == pytest.approx((50 / 5) ** 0.5 / 4.0)
    assert item.throughput_per_s == pytest.approx(500.0)


def test_a_single_sample_is_its_own_median_and_percentile():
    item = replace(DENSE, samples_ms=(2.5,))
    assert (item.median_ms, item.p90_ms, item.p99_ms, item.cov) == (2.5, 2.5, 2.5, 0.0)


def test_the_first_network_is_what_the_others_are_compared_with():
    (found,) = compare(RECORD, 1)
    assert found == Comparison(
        name="pruned",
        batch=1,
        flops_ratio=0.5,
        latency_ratio=pytest.approx(0.8),
        latency_low=pytest.approx(0.8),
        latency_high=pytest.approx(0.8),
        efficiency=pytest.approx(0.625),
        verdict="faster",
    )


def test_half_the_flops_can_be_slower():
    (found,) = compare(RECORD, 8)
    assert found.flops_ratio == 0.5
    assert found.verdict == "slower"
    assert found.efficiency == pytest.approx(0.5 / 1.05)


def test_a_batch_that_was_not_measured_is_refused():
    with pytest.raises(DmcpError, match=r"no batch 4; it holds 1, 8"):
        compare(RECORD, 4)


def test_the_table_shows_every_figure_under_its_heading():
    lines = format_table(RECORD).splitlines()
    assert len(lines) == 5
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert cells[0] == [
        "network",
        "MACs",
        "params",
        "batch",
        "median ms",
        "p99 ms",
        "images/s",
        "FLOPs ratio",
        "latency ratio [95%]",
        "efficiency",
        "verdict",
    ]
    assert cells[1] == [
        *("original", "300.8M", "3.5M", "1", "6.000", "8.000", "166.7"),
        *("1.00", "1.00", "1.00", "reference"),
    ]
    assert cells[2] == [
        *("pruned", "150.4M", "2.0M", "1", "4.800", "6.400", "208.3"),
        *("0.50", "0.80 [0.80, 0.80]", "0.62", "faster"),
    ]
    verdicts = [line.index(row[-1]) for line, row in zip(lines, cells, strict=True)]
    assert len(set(verdicts)) == 1
    assert cells[4][-4:] == ["0.50", "1.05 [1.05, 1.05]", "0.48", "slower"]


def test_a_record_read_back_is_the_record(tmp_path):
    RECORD.save(tmp_path / "bench.json")
    content = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert BenchRecord.load(tmp_path / "bench.json") == RECORD
    assert content["kind"] == "bench"
    assert content["measured"][1]["samples_ms"] == list(PRUNED.samples_ms)
    assert "median_ms" not in content["measured"][1]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ((), r"original has no latency samples at batch 1"),
        ((1.0, float("nan")), r"a latency sample of nan ms"),
        ((1.0, float("inf")), r"a latency sample of inf ms"),
        ((1.0, 0.0), r"a latency sample of 0.0 ms"),
        ((-1.0, 1.0), r"a latency sample of -1.0 ms"),
    ],
)
def test_samples_that_no_measurement_gives_are_refused(tmp_path, samples, message):
    with pytest.raises(DmcpError, match=message):
        replace(DENSE, samples_ms=samples)
    RECORD.save(tmp_path / "bench.json")
    content = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    content["measured"][0]["samples_ms"] = samples
    (tmp_path / "bench.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DmcpError, match=f"bench.json is not valid: .*{message}") as caught:
        BenchRecord.load(tmp_path / "bench.json")
    assert "\n" not in str(caught.value)


def test_networks_of_different_rounds_are_refused():
    with pytest.raises(DmcpError, match="not measured in the same rounds"):
        BenchRecord((DENSE, replace(PRUNED, samples_ms=(1.0,))), {}, (3, 8, 8))


def test_a_network_measured_twice_and_an_empty_record_are_refused():
    with pytest.raises(DmcpError, match="measured twice at batch 1"):
        BenchRecord((DENSE, DENSE), {}, (3, 8, 8))
    with pytest.raises(DmcpError, match="at least one measured network"):
        BenchRecord((), {}, (3, 8, 8))


@pytest.mark.parametrize(("field", "value"), [("macs", 0), ("batch", 0)])
def test_counts_below_one_are_refused(field, value):
    with pytest.raises(DmcpError, match="both must be 1 or more"):
        replace(DENSE, **{field: value})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.pop("measured"), "lacks or misstates 'measured'"),
        (lambda c: c["measured"][0].pop("digest"), "lacks or misstates 'digest'"),
        (lambda c: c["measured"][0].update(samples_ms=["fast"]), "lacks or misstates"),
        (lambda c: c.update(input=[3, 224]), "lacks or misstates"),
        (lambda c: c.update(kind="plan"), "not a bench file: its kind is 'plan'"),
        (lambda c: c.update(schema_version=99), "schema version 99"),
    ],
)
def test_a_damaged_record_is_one_sentence(tmp_path, damage, message):
    RECORD.save(tmp_path / "bench.json")
    content = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    damage(content)
    (tmp_path / "bench.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DmcpError, match=message):
        BenchRecord.load(tmp_path / "bench.json")
