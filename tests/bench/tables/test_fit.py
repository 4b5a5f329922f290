from __future__ import annotations

import itertools

import numpy as np
import pytest

from dmcp_deploy.bench.tables.fit import Samples, fit_calls, fit_layer

WIDTHS = np.array([(a, b) for a, b in itertools.product((8, 24, 40, 56), (16, 40, 72))], float)
TRUTH = np.array([0.01, 0.0, 1e-4, 2e-5])


def stepped(widths: np.ndarray, rounding: tuple[int, int]) -> np.ndarray:
    """Returns times of kernels that work on whole blocks of channels."""
    inputs, outputs = (np.ceil(widths / rounding) * rounding).T
    return np.stack([np.ones_like(inputs), inputs, outputs, inputs * outputs], axis=1) @ TRUTH


def test_what_a_regression_can_say_is_said_exactly():
    fit = fit_layer(Samples(WIDTHS, stepped(WIDTHS, (1, 1)), by_output=False))
    assert fit.coefficients == pytest.approx(TRUTH)
    assert fit.left_out_ms == pytest.approx(stepped(WIDTHS, (1, 1)))


@pytest.mark.parametrize("rounding", [(4, 16), (16, 8), (1, 32), (32, 1)])
def test_the_blocks_that_kernels_round_up_to_are_found(rounding):
    rng = np.random.default_rng(0)
    widths = rng.integers(4, 100, (24, 2)).astype(float)
    disturbed = stepped(widths, rounding) * rng.normal(1, 0.005, 24)
    fit = fit_layer(Samples(widths, disturbed, by_output=False))
    assert fit.rounding == rounding
    # A product of two rounded widths tells both roundings.
    assert fit.coefficients[3] == pytest.approx(TRUTH[3], rel=0.03)
    assert fit.left_out_ms == pytest.approx(disturbed, rel=0.03)


def test_a_depthwise_layer_depends_on_its_output_alone():
    same = np.array([(w, w) for w in (8, 16, 32, 64)], float)
    fit = fit_layer(Samples(same, 0.001 * same[:, 1], by_output=True))
    assert fit.coefficients == pytest.approx([0, 0, 0.001, 0])


def test_no_coefficient_is_below_zero():
    falling = np.array([3.0, 2.0, 1.0, 0.5])
    widths = np.array([(8, 8), (16, 24), (24, 16), (40, 40)], float)
    fit = fit_layer(Samples(widths, falling, by_output=False))
    assert (fit.coefficients >= 0).all()
    assert fit.coefficients[0] > 0
    assert not fit.coefficients[1:].any()


def test_a_layer_without_kernels_takes_nothing():
    fit = fit_layer(Samples(WIDTHS, np.zeros(len(WIDTHS)), by_output=False))
    assert not fit.coefficients.any()


def test_a_few_disturbed_calls_do_not_move_the_line():
    kernels = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    calls = 0.5 + 1.2 * kernels
    calls[2] *= 1.6
    line = fit_calls(kernels, calls)
    assert (line.fixed_ms, line.factor) == pytest.approx((0.5, 1.2))
    assert fit_calls(kernels, 2 * kernels - 1.5).fixed_ms == 0
