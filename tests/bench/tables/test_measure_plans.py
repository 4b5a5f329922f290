from __future__ import annotations

import json

import pytest
from tiny_onnx import write_tiny_net

from dmcp_deploy.bench.artifacts import FileArtifact
from dmcp_deploy.bench.tables import measure_plans as module
from dmcp_deploy.bench.tables.measure_plans import measure_plans
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.measure import Setting

SETTING = Setting(threads=1)
PLANS = [{"conv": 8}, {"conv": 24}, {"conv": 48}]


@pytest.fixture
def measure(tmp_path):
    def file(name: str, width: int) -> FileArtifact:
        write_tiny_net(tmp_path / name, width=width, size=32)
        return FileArtifact(tmp_path / name, SETTING.runtime, SETTING.threads)

    def run(plans=PLANS, made=None):
        def make(number: int) -> FileArtifact:
            (made if made is not None else []).append(number)
            return file("plan.onnx", plans[number]["conv"])

        part = tmp_path / "part.json"
        return measure_plans(
            file("full.onnx", 64), plans, make, (3, 32, 32), SETTING, part, passes=2
        )

    return run


def test_each_plan_is_timed_beside_the_full_network_in_every_pass(measure):
    made = []
    times = measure(made=made)
    assert [plan.widths for plan in times] == PLANS
    assert sorted(made[:3]) == sorted(made[3:]) == [0, 1, 2]
    assert made[:3] != made[3:]
    for plan in times:
        assert len(plan.ms) == len(plan.reference_ms) == 2
        assert all(5 <= len(calls) <= 20 for calls in (*plan.ms, *plan.reference_ms))
        assert min(plan.ratios) <= plan.ratio <= max(plan.ratios)


def test_a_stopped_measurement_goes_on_where_it_stopped(measure, monkeypatch, tmp_path):
    real, calls = module._calls_ms, []

    def stops(sampler):
        calls.append(sampler)
        if len(calls) > 7:
            raise KeyboardInterrupt
        return real(sampler)

    monkeypatch.setattr(module, "_calls_ms", stops)
    with pytest.raises(KeyboardInterrupt):
        measure()
    kept = json.loads((tmp_path / "part.json").read_text(encoding="utf-8"))["steps"]
    assert len(kept) == 3
    monkeypatch.undo()
    made = []
    times = measure(made=made)
    assert len(made) == 3
    assert list(times[kept[0]["plan"]].ms[kept[0]["pass"]]) == kept[0]["ms"]


def test_another_measurement_is_not_gone_on_with(measure):
    measure()
    with pytest.raises(DmcpError, match="with another plans: delete it"):
        measure(plans=[{"conv": 16}])
