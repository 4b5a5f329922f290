from __future__ import annotations

import pytest
from table_samples import (
    AFTER_MS,
    FACTOR,
    FIXED_MS,
    SPEC,
    USUAL,
    first_ms,
    made_up,
    plan,
    second_ms,
    whole_ms,
)
from tiny_onnx import write_tiny_net

from dmcp_deploy.bench.tables.predict import Predictor
from dmcp_deploy.bench.tables.text import format_predictions, format_table
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import ChannelPlan, Keep, NetworkSpec


@pytest.fixture(scope="module")
def predictor():
    return Predictor(made_up())


def test_a_plan_takes_the_sum_of_its_layers_and_what_lies_outside(predictor):
    found = predictor.predict_plan("plan", plan(44, 80))
    first, second = found.layers
    assert (first.in_channels, first.out_channels) == (3, 44)
    assert (second.in_channels, second.out_channels) == (44, 80)
    kernels = first_ms(44) + AFTER_MS + second_ms(44, 80)
    share = USUAL * FACTOR
    assert first.ms == pytest.approx(share * (first_ms(44) + AFTER_MS), rel=1e-3)
    assert second.ms == pytest.approx(share * second_ms(44, 80), rel=1e-3)
    assert first.ms + second.ms == pytest.approx(share * kernels, rel=1e-3)
    assert found.undisturbed_ms == pytest.approx(whole_ms(44, 80), rel=1e-3)
    assert found.latency_ms == pytest.approx(USUAL * whole_ms(44, 80), rel=1e-3)
    assert found.full_ms == pytest.approx(USUAL * whole_ms(64, 96))
    assert found.overhead_ms == pytest.approx(USUAL * FIXED_MS, rel=1e-2)
    assert found.error_share == pytest.approx(predictor.model.error_share)
    assert found.outside == ()


def test_widths_outside_of_the_probes_are_named(predictor):
    found = predictor.predict_plan("plan", plan(4, 80))
    assert found.outside == ("first", "second")
    assert "plan: narrower or wider than any probe, so less certain: first, second" in (
        format_predictions(predictor.table, [found])
    )


def test_a_plan_of_another_network_is_refused(predictor):
    other = NetworkSpec("tiny:other", 1.0, 5, (3, 16, 16))
    with pytest.raises(DmcpError, match=r"table is of tiny:net .* and the plan of tiny:other"):
        predictor.predict_plan("plan", plan(8, 8, other))
    wider = plan(8, 8)
    groups = {**wider.groups, "second": Keep(128, 8)}
    odd = ChannelPlan(SPEC, groups, 1, 1, 1, None, "uniform", 8, 0)
    with pytest.raises(DmcpError, match="other channel groups than the table of tiny:net"):
        predictor.predict_plan("plan", odd)


def test_a_layer_whose_channels_do_not_follow_from_groups_needs_the_onnx_file():
    import dataclasses

    first, second = made_up().layers
    table = made_up(layers=(first, dataclasses.replace(second, form=None)))
    with pytest.raises(DmcpError, match=r"channels of second follow .* give its ONNX file"):
        Predictor(table).predict_plan("plan", plan(8, 8))


def test_an_onnx_file_of_another_network_is_refused(predictor, tmp_path):
    net = write_tiny_net(tmp_path / "other.onnx", width=8)
    with pytest.raises(DmcpError, match=r"no network of the table, which is of tiny:net"):
        predictor.predict_file(net.path, "other")


def test_a_table_and_predictions_are_shown(predictor):
    assert format_table(predictor.table).splitlines()[0] == (
        "tiny:net: 2 layers in 9 probe networks; the full network takes"
        f" {USUAL * whole_ms(64, 96):.3f} ms"
    )
    found = predictor.predict_plan("narrow", plan(44, 80))
    lines = format_predictions(predictor.table, [found], with_layers=True).splitlines()
    assert lines[0].split()[:6] == ["network", "latency", "ms", "+-", "of", "full"]
    assert lines[1].split()[:2] == ["narrow", f"{found.latency_ms:.3f}"]
    assert lines[-2].split()[:3] == ["second", "44", "80"]
    assert "a processor, onnxruntime 1.0 fp32, 1 thread(s), batch 1" in lines[-1]
    assert found.to_json()["layers"][0]["name"] == "first"
