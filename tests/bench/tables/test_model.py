from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from table_samples import FIXED_MS, USUAL, made_up, whole_ms

from dmcp_deploy.bench.tables.model import check_certain, latency_model, table_channels
from dmcp_deploy.bench.tables.table import LatencyTable, PlanTimes, Times
from dmcp_deploy.errors import DmcpError


def channels(first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([3, first]), np.array([first, second])


def test_a_model_says_the_middle_call_at_any_widths():
    model = latency_model(made_up())
    for widths in ((20, 12), (44, 80), (64, 96)):
        assert model.ms(*channels(*widths)) == pytest.approx(USUAL * whole_ms(*widths), rel=1e-3)
    assert model.fixed_ms == pytest.approx(USUAL * FIXED_MS, rel=1e-2)
    assert model.full_ms == pytest.approx(USUAL * whole_ms(64, 96))
    assert model.error_share < 0.001


def test_many_networks_are_computed_at_once():
    table = made_up()
    model = latency_model(table)
    inputs, outputs = table_channels(table)
    assert model.ms(inputs, outputs).shape == (len(table.widths),)
    assert model.ms(inputs[3], outputs[3]) == pytest.approx(model.ms(inputs, outputs)[3])


def test_more_channels_never_take_less():
    table = made_up()
    rng = np.random.default_rng(0)
    noisy = [
        replace(layer, own=Times(tuple(rng.uniform(0.5, 2, 9) * layer.own.ms), (0.0,) * 9))
        for layer in table.layers
    ]
    model = latency_model(replace(table, layers=tuple(noisy)))
    widths = np.arange(1, 97)
    taken = [float(model.ms(*channels(32, int(width)))) for width in widths]
    assert (np.diff(taken) >= 0).all()


def test_what_was_seen_scales_all_but_the_full_network():
    model = latency_model(made_up())
    slower = model.scaled(1.1)
    assert slower.ms(*channels(20, 40)) == pytest.approx(1.1 * model.ms(*channels(20, 40)))
    assert slower.full_ms == model.full_ms


def test_layers_of_one_shape_share_their_samples():
    table = made_up()
    first, second = table.layers
    times = np.array(second.own.ms)
    twins = [
        replace(second, name=name, own=Times(tuple(times * factor), second.own.spread_ms))
        for name, factor in (("second", 0.8), ("third", 1.2))
    ]
    shared = latency_model(made_up(layers=(first, *twins))).layers
    assert shared.coefficients[1] == pytest.approx(shared.coefficients[2])
    alone = latency_model(made_up(layers=(first, twins[0], replace(twins[1], kernel=(3, 3)))))
    assert alone.layers.coefficients[2] == pytest.approx(1.5 * alone.layers.coefficients[1])


def test_the_widths_on_offer_are_the_right_edges_of_the_steps():
    table = made_up()
    inputs, outputs = table_channels(table)
    stepped = -(-outputs // 16) * 16 * (0.001 + 0.0001 * -(-inputs // 8) * 8)
    layers = [
        replace(layer, own=Times(tuple(ms), layer.own.spread_ms))
        for layer, ms in zip(table.layers, stepped.T, strict=True)
    ]
    model = latency_model(replace(table, layers=tuple(layers)))
    assert model.layers.rounding[1].tolist() == [8, 16]
    assert model.edges()["second"] == (16, 32, 48, 64, 80, 96)
    assert set(model.edges()["first"]) <= set(range(8, 65, 8))
    assert model.edges()["first"][-1] == 64


def with_plans(factor: float, fixed_ms: float, noise: float = 0.0) -> LatencyTable:
    """Returns a table whose whole plans took longer than its layers say."""
    rng, table = np.random.default_rng(0), made_up()
    full = whole_ms(64, 96)
    plans = []
    for first, second in itertools.product((16, 32, 48, 64), (16, 40, 64, 88)):
        ms = (factor * (whole_ms(first, second) - FIXED_MS) + fixed_ms) * rng.normal(1, noise)
        reference = factor * (full - FIXED_MS) + fixed_ms
        widths = {"first": first, "second": second}
        plans.append(PlanTimes(widths, ((ms,) * 5,), ((reference,) * 5,)))
    return replace(table, plans=tuple(plans))


@pytest.mark.parametrize(("noise", "within"), [(0.0, 0.01), (0.01, 0.03)])
def test_whole_plans_correct_what_the_layers_say(noise, within):
    table = with_plans(1.0, 3 * FIXED_MS, noise)
    before, after = latency_model(made_up()), latency_model(table)
    for first, second in ((24, 24), (40, 80), (56, 48)):
        truth = (whole_ms(first, second) + 2 * FIXED_MS) / (whole_ms(64, 96) + 2 * FIXED_MS)
        places = channels(first, second)
        assert abs(before.ms(*places) / before.full_ms / truth - 1) > 0.04
        assert after.ms(*places) / after.full_ms == pytest.approx(truth, rel=within)
    assert (after.layers.coefficients >= 0).all()
    assert after.full_ms == pytest.approx(whole_ms(64, 96) + 2 * FIXED_MS, rel=0.05)
    assert after.error_share < within


def test_a_table_with_plans_is_read_as_it_was_written_and_one_without_too(tmp_path):
    table = with_plans(1.0, FIXED_MS)
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == table
    content = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    del content["plans"]
    (tmp_path / "table.json").write_text(json.dumps(content), encoding="utf-8")
    assert LatencyTable.load(tmp_path / "table.json") == made_up()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ms": []}, "A plan was not measured"),
        ({"ms": [[1.0, 0.0]]}, "A plan's times are finite and above zero"),
        ({"ms": [[1.0], [1.0]]}, "in other passes than the full network"),
        ({"widths": {"first": 8}}, "other groups than its network"),
        ({"widths": {"first": 8, "second": 97}}, "97 channels in the group second"),
    ],
)
def test_bad_plans_are_refused_in_one_sentence(tmp_path, changes, message):
    path = tmp_path / "table.json"
    with_plans(1.0, FIXED_MS).save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["plans"][1].update(changes)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DmcpError, match=message):
        LatencyTable.load(path)


def test_a_truncated_table_is_refused(tmp_path):
    path = tmp_path / "table.json"
    with_plans(1.0, FIXED_MS).save(path)
    path.write_text(path.read_text(encoding="utf-8")[:5000], encoding="utf-8")
    with pytest.raises(DmcpError, match="not readable as the JSON of a latency-table"):
        LatencyTable.load(path)


def test_a_table_that_is_too_noisy_keeps_no_budget():
    check_certain(latency_model(with_plans(1.0, FIXED_MS, 0.01)))
    with pytest.raises(DmcpError, match=r"too noisy to keep a budget by: 90% .* 25% are needed"):
        check_certain(latency_model(with_plans(1.0, FIXED_MS, 0.3)))


def test_a_layer_whose_channels_are_not_known_is_named():
    first, second = made_up().layers
    model = latency_model(made_up(layers=(first, replace(second, form=None))))
    assert model.ms(*channels(20, 40)) > 0
    with pytest.raises(DmcpError, match="channels of second follow"):
        model.channels({"first": 20, "second": 40})
