from __future__ import annotations

import json
from dataclasses import replace

import pytest
from latency_records import DENSE, PRUNED, RECORD

from dmcp_deploy.bench.record import BenchRecord, Comparison, compare
from dmcp_deploy.errors import DmcpError


def test_figures_are_derived_from_the_samples():
    item = replace(DENSE, batch=2, samples_ms=(10.0, 1.0, 2.0, 3.0, 4.0))
    assert item.median_ms == 3.0
    assert item.mean_ms == 4.0
    assert item.p90_ms == pytest.approx(4.0 + 0.6 * 6.0)
    assert item.p99_ms == pytest.approx(4.0 + 0.96 * 6.0)
    assert item.cov == pytest.approx((50 / 5) ** 0.5 / 4.0)
    assert item.throughput_per_s == pytest.approx(500.0)
    assert replace(item, macs=10**9).gmacs_per_s == pytest.approx(2 / 3e-3)


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


LATER = ("timing", "precision", "weight_bytes", "file_bytes")


@pytest.mark.parametrize(
    ("runtime", "timing"),
    [
        ("onnxruntime", "wall"),
        ("openvino fp32", "wall"),
        ("tensorrt 10.3.0 fp16", "wall with transfers"),
        ("tensorrt-rtx 1.7.1.116 fp16", "wall with transfers"),
    ],
)
def test_a_record_of_the_first_release_is_read(tmp_path, runtime, timing):
    RECORD.save(tmp_path / "bench.json")
    content = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    for item in content["measured"]:
        item["runtime"] = runtime
        for field in LATER:
            del item[field]
    (tmp_path / "bench.json").write_text(json.dumps(content), encoding="utf-8")
    first = BenchRecord.load(tmp_path / "bench.json").measured[0]
    assert first == replace(DENSE, runtime=runtime, timing=timing)
    assert (first.precision, first.weight_bytes, first.file_bytes) == (None, None, None)


def test_what_is_known_of_the_file_is_read_back(tmp_path):
    known = {"precision": "int8", "timing": "events", "weight_bytes": 7, "file_bytes": 9}
    record = replace(RECORD, measured=(replace(DENSE, **known),))
    record.save(tmp_path / "bench.json")
    assert BenchRecord.load(tmp_path / "bench.json") == record


def test_a_timing_that_no_release_has_is_refused():
    with pytest.raises(DmcpError, match=r"original is timed as 'sundial', which this release does"):
        replace(DENSE, timing="sundial")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.pop("measured"), "lacks or misstates 'measured'"),
        (lambda c: c["measured"][0].pop("digest"), "lacks or misstates 'digest'"),
        (lambda c: c["measured"][0].update(samples_ms=["fast"]), "lacks or misstates"),
        (lambda c: c["measured"][0].update(samples_ms="123"), "lacks or misstates 'samples_ms'"),
        (lambda c: c["measured"][0].update(samples_ms={"1": 2}), "misstates 'samples_ms'"),
        (lambda c: c["measured"][0].update(samples_ms=[10**400]), "lacks or misstates"),
        (lambda c: c["measured"][0].update(macs=1.5), "lacks or misstates 'macs': 1.5"),
        (lambda c: c["measured"][0].update(batch="1"), "lacks or misstates 'batch': '1'"),
        (lambda c: c["measured"][0].update(threads=True), "lacks or misstates 'threads': True"),
        (lambda c: c["measured"][0].update(macs=float("inf")), "lacks or misstates 'macs': inf"),
        (lambda c: c["measured"][0].update(file_bytes="big"), "lacks or misstates 'file_bytes'"),
        (lambda c: c["measured"][0].update(timing="sundial"), "timed as 'sundial'"),
        (lambda c: c.update(measured=[]), "at least one measured network"),
        (lambda c: c.update(measured=[7]), "lacks or misstates"),
        (lambda c: c.update(measured=None), "lacks or misstates"),
        (lambda c: c.update(environment=7), "lacks or misstates"),
        (lambda c: c.update(input=[3, 224, "side"]), "lacks or misstates"),
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
    with pytest.raises(DmcpError, match=message) as caught:
        BenchRecord.load(tmp_path / "bench.json")
    assert "\n" not in str(caught.value)
