from __future__ import annotations

import contextlib
import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from tiny_onnx import write_tiny_net

from dmcp_deploy.bench.comparable import (
    NotComparableError,
    compare_with_baseline,
    gate_baseline,
)
from dmcp_deploy.bench.decision import LEAST_LOADS, Decision
from dmcp_deploy.bench.gate import (
    GateResult,
    GateRow,
    Race,
    format_gate,
    gate_against,
    parse_limit,
)
from dmcp_deploy.bench.record import BenchRecord, Measured
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.measure import BenchOptions


@pytest.mark.parametrize(
    ("text", "share"), [("5%", 0.05), (" 2.5 % ", 0.025), ("100%", 1.0), ("0.5%", 0.005)]
)
def test_a_limit_is_a_percentage(text, share):
    assert parse_limit(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["5", "0.05", "0%", "-5%", "nan%", "five", "", "1e9%", "99999%"])
def test_another_limit_is_refused(text):
    with pytest.raises(DmcpError, match=r"not understood: write a percentage above zero"):
        parse_limit(text)


RNG = np.random.default_rng(7)
NET = Measured(
    name="model",
    path="model.onnx",
    digest="sha256:aa",
    macs=1000,
    params=10,
    batch=1,
    runtime="tensorrt 10.3.0 fp16",
    threads=1,
    samples_ms=tuple(2 + 0.01 * RNG.random(100)),
)
ENVIRONMENT = {
    "taken_at": "2026-01-02T03:04:05+00:00",
    "machine": "x86_64",
    "cpu": "a cpu",
    "cores": 4,
    "governor": "performance",
    "libraries": {"onnxruntime": "1.20", "numpy": "2.0"},
}
BASELINE = BenchRecord((NET, replace(NET, batch=8)), ENVIRONMENT, (3, 8, 8))


def scaled(item: Measured, factor: float) -> Measured:
    return replace(item, samples_ms=tuple(ms * factor for ms in item.samples_ms))


def test_every_network_and_batch_is_compared_with_its_own_baseline():
    slower = replace(BASELINE, measured=(NET, scaled(BASELINE.measured[1], 1.2)))
    result = compare_with_baseline(BASELINE, slower, 0.05)
    assert [(row.name, row.batch) for row in result.rows] == [("model", 1), ("model", 8)]
    assert [row.decision.verdict for row in result.rows] == ["within the limit", "regression"]
    assert result.rows[1].now_ms == pytest.approx(1.2 * result.rows[1].before_ms)
    assert result.rows[1].decision.ratio == pytest.approx(1.2)
    assert result.is_regression
    assert not result.is_noisy
    assert not compare_with_baseline(BASELINE, BASELINE, 0.05).is_regression


def test_what_changed_besides_the_network_is_named_and_drift_is_admitted():
    now = BenchRecord(
        tuple(replace(item, runtime="tensorrt 10.4.1 fp16") for item in BASELINE.measured),
        {**ENVIRONMENT, "governor": "powersave", "libraries": {"onnxruntime": "1.21"}},
        (3, 8, 8),
    )
    drift, changed = compare_with_baseline(BASELINE, now, 0.05).notes
    assert "taken at 2026-01-02T03:04:05+00:00" in drift
    assert "drifted since then is part of the ratio" in drift
    assert "governor: performance then, powersave now" in changed
    assert "onnxruntime: 1.20 then, 1.21 now" in changed
    assert "numpy: 2.0 then, None now" in changed
    assert "runtime: tensorrt 10.3.0 fp16 then, tensorrt 10.4.1 fp16 now" in changed
    assert len(compare_with_baseline(BASELINE, BASELINE, 0.05).notes) == 1


def changed(**fields) -> BenchRecord:
    return replace(BASELINE, measured=tuple(replace(m, **fields) for m in BASELINE.measured))


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (replace(BASELINE, environment={**ENVIRONMENT, "cpu": "other"}), "cpu was a cpu and is ot"),
        (replace(BASELINE, environment={**ENVIRONMENT, "cores": 2}), "cores was 4 and is 2"),
        (replace(BASELINE, environment={**ENVIRONMENT, "machine": "aarch64"}), "is aarch64"),
        (replace(BASELINE, environment={}), "cpu was a cpu and is unknown"),
        (replace(BASELINE, input_shape=(3, 9, 9)), "input shape was 3, 8, 8 and is 3, 9, 9"),
        (replace(BASELINE, measured=(NET,)), "batches was 1, 8 and is 1,"),
        (changed(name="other"), "networks was model and is other"),
        (changed(threads=2), "threads was 1 and is 2"),
        (changed(runtime="onnxruntime"), "runtime was tensorrt fp16 and is onnxruntime"),
        (changed(runtime="tensorrt 10.3.0 int8"), "runtime was tensorrt fp16 and is tensorrt int8"),
    ],
)
def test_records_of_another_device_or_setting_do_not_compare(now, named):
    with pytest.raises(NotComparableError) as caught:
        compare_with_baseline(BASELINE, now, 0.05)
    sentence = str(caught.value)
    assert sentence.startswith("Not comparable with the baseline: ")
    assert named in sentence
    assert sentence.count(".") - sentence.count("10.3.0") <= 1


def test_all_that_differs_is_named_at_once():
    other = replace(changed(threads=2), input_shape=(1, 8, 8))
    with pytest.raises(NotComparableError, match=r"threads was 1 and is 2, input shape was 3, 8,"):
        compare_with_baseline(BASELINE, other, 0.05)


def test_a_baseline_with_gaps_does_not_compare():
    other = replace(NET, name="other")
    full = replace(BASELINE, measured=(NET, other, replace(NET, batch=8), replace(other, batch=8)))
    gappy = replace(full, measured=full.measured[:3])
    with pytest.raises(NotComparableError, match="number of rows was 3 and is 4"):
        compare_with_baseline(gappy, full, 0.05)


def test_the_table_says_what_changed_and_how_to_read_it():
    rows = (
        GateRow("model", 1, 2.0, 2.4, Decision(1.2, 1.15, 1.25, "regression")),
        GateRow("longer name", 32, 20.0, 20.1, Decision(1.005, 0.9, 1.1, "too noisy to tell")),
    )
    lines = format_gate(GateResult(rows, 0.025, ("A note.",), BASELINE)).splitlines()
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[:3]]
    assert cells == [
        ["network", "batch", "before ms", "now ms", "ratio [99%]", "verdict"],
        ["model", "1", "2.000", "2.400", "1.200 [1.150, 1.250]", "regression"],
        ["longer name", "32", "20.000", "20.100", "1.005 [0.900, 1.100]", "too noisy to tell"],
    ]
    assert len({line.index(row[-1]) for line, row in zip(lines, cells, strict=False)}) == 1
    assert "slowdown of 2.5%" in lines[3]
    assert lines[4] == "A note."
    assert lines[5].startswith("Too noisy to tell: allow more --seconds")
    assert len(format_gate(GateResult(rows[:1], 0.05, (), BASELINE)).splitlines()) == 3


class _Twice:
    """Loads two calls; remembers the order in which, and that the last load was let go."""

    def __init__(self, old, new):
        self.calls, self.orders, self.loaded = (old, new), [], 0

    @contextlib.contextmanager
    def __call__(self, new_first):
        assert self.loaded == 0
        self.orders.append(new_first)
        self.loaded += 1
        yield self.calls
        self.loaded -= 1


def test_a_race_loads_anew_in_either_order_and_keeps_all_samples():
    opened = _Twice(lambda: None, lambda: time.sleep(0.001))
    race = Race(opened, seconds=0.01)
    loads = list(race.loads())
    assert opened.orders == [False, True, True, False, True, False, False, True]
    assert len(opened.orders) == LEAST_LOADS
    assert race.old_ms == [ms for old, _ in loads for ms in old]
    assert race.new_ms == [ms for _, new in loads for ms in new]
    assert all(len(old) == len(new) and len(old) % 2 == 0 for old, new in loads)
    assert min(race.new_ms) > 1.0


class _Clock:
    """Time that passes only by loading and by measuring."""

    def __init__(self, load_s):
        self.now_s, self.load_s, self.parts_s = 0.0, load_s, []

    def perf_counter(self):
        return self.now_s

    @contextlib.contextmanager
    def opened(self, new_first):
        self.now_s += self.load_s
        yield None, None

    def measure(self, calls, *, seconds, warmup_s):
        self.now_s += seconds + warmup_s
        self.parts_s.append(seconds)
        return {"old": [1.0, 1.0], "new": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("load_s", "part_s", "loads"),
    [
        (0.001, 0.1, 32),  # 33 would end in time, but of either order there are as many
        (0.2, 0.2, 8),
        (0.3, 0.2, LEAST_LOADS),  # measured less than loaded, to make eight
        (2.0, 0.1, LEAST_LOADS),  # at whatever time
    ],
)
def test_a_race_ends_in_time_after_loads_of_either_order(monkeypatch, load_s, part_s, loads):
    clock = _Clock(load_s)
    monkeypatch.setattr("dmcp_deploy.bench.gate.time", clock)
    monkeypatch.setattr("dmcp_deploy.bench.gate.time_interleaved", clock.measure)
    assert sum(1 for _ in Race(clock.opened, seconds=4.0).loads()) == loads
    assert clock.parts_s == pytest.approx([part_s] * loads)
    assert clock.now_s <= 4.2 or load_s >= 1


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return write_tiny_net(tmp_path_factory.mktemp("net") / "model.onnx", width=32, size=64).path


def test_a_network_of_eight_times_the_width_is_a_regression(net, tmp_path):
    wide = write_tiny_net(tmp_path / "wide.onnx", width=256, size=64).path
    result = gate_against(("old", net), ("new", wide), 0.05, BenchOptions([1], 1, 1.5))
    (row,) = result.rows
    assert (row.name, row.batch, row.decision.verdict) == ("new", 1, "regression")
    assert row.now_ms > row.before_ms
    assert [item.name for item in result.record.measured] == ["old", "new"]
    assert result.record.measured[1].median_ms == row.now_ms
    assert "before is old" in result.notes[0]


def test_what_cannot_compare_is_found_before_the_measurement(net):
    with pytest.raises(NotComparableError, match="networks was model and is net"):
        gate_baseline({"net": net}, BASELINE, 0.05, BenchOptions([1, 8], 1, 600))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda c: c.update(schema_version=2), "schema version 2, and this release reads 1"),
        (lambda c: c.update(kind="plan"), "is not a bench file"),
        (lambda c: c.update(measured=[]), "at least one measured network"),
        (lambda c: c["measured"][0].update(samples_ms=[]), "no latency samples"),
        (lambda c: c["measured"][0].update(samples_ms=[math.nan] * 20), "sample of nan ms"),
        (lambda c: c["measured"][0].update(samples_ms=None), "lacks or misstates"),
    ],
)
def test_a_bad_baseline_is_one_sentence(damage, named, net, tmp_path):
    from dmcp_deploy.run import gates

    path = tmp_path / "baseline.json"
    BASELINE.save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    damage(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DmcpError, match=named) as caught:
        gates.gate(net, baseline=path, seconds=600)
    assert "\n" not in str(caught.value)
