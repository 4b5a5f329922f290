from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from table_samples import FIXED_MS, USUAL, made_up, whole_ms

from dmcp_deploy.bench.tables.model import latency_model, table_channels
from dmcp_deploy.bench.tables.table import Times


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
