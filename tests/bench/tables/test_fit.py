from __future__ import annotations

import itertools

import numpy as np
import pytest

from dmcp_deploy.bench.tables.fit import CHOICES, Choice, Samples, choose, nonnegative, predict_ms

WIDTHS = np.array([(a, b) for a, b in itertools.product((8, 24, 40, 56), (16, 40, 72))], float)
PLACES = np.array([(12.0, 30.0), (50.0, 64.0), (33.0, 17.0)])


def stepped(widths: np.ndarray, step: int) -> np.ndarray:
    """Returns times of kernels that work on whole blocks of channels."""
    inputs, outputs = (np.ceil(widths / step) * step).T
    return 0.01 + 2e-5 * inputs * outputs + 1e-4 * outputs


def test_what_a_regression_can_say_is_said_exactly_at_other_widths():
    samples = Samples(WIDTHS, stepped(WIDTHS, 1), by_output=False)
    for corrected in (False, True):
        found = predict_ms(samples, PLACES, Choice(1, corrected))
        assert found == pytest.approx(stepped(PLACES, 1))


@pytest.mark.parametrize("step", [8, 16, 32])
def test_the_block_that_kernels_round_up_to_is_found(step):
    widths = np.random.default_rng(0).integers(4, 100, (24, 2)).astype(float)
    samples = Samples(widths, stepped(widths, step), by_output=False)
    choice, left_out = choose(samples, np.arange(24))
    assert choice.rounding == step
    assert left_out == pytest.approx(samples.ms, rel=0.02)
    assert predict_ms(samples, PLACES, choice) == pytest.approx(stepped(PLACES, step), rel=0.02)


def test_a_layer_that_leaves_the_cache_is_corrected_near_its_samples():
    ms = np.where(WIDTHS[:, 1] > 60, 2.0, 1.0) * stepped(WIDTHS, 1)
    samples = Samples(WIDTHS, ms, by_output=False)
    near = np.array([[40.0, 70.0]])
    wrong, right = (
        abs(predict_ms(samples, near, Choice(1, corrected))[0] / (2 * stepped(near, 1)[0]) - 1)
        for corrected in (False, True)
    )
    assert right < wrong / 2
    assert choose(samples, np.arange(len(ms)))[0].corrected


def test_a_depthwise_layer_depends_on_its_output_alone():
    same = np.array([(w, w) for w in (8, 16, 32, 64)], float)
    samples = Samples(same, 0.001 * same[:, 1], by_output=True)
    found = predict_ms(samples, np.array([[999.0, 48.0]]), Choice(1, corrected=False))
    assert found == pytest.approx([0.048])


def test_no_coefficient_and_no_time_is_below_zero():
    features = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    falling = np.array([3.0, 2.0, 1.0])
    assert nonnegative(features, falling, np.ones(3)) == pytest.approx([2.0, 0.0])
    assert nonnegative(features, -falling, np.ones(3)) == pytest.approx([0.0, 0.0])
    samples = Samples(np.array([(8.0, 8.0), (8.0, 64.0)]), np.array([0.0, 1.0]), by_output=True)
    for choice in CHOICES:
        assert predict_ms(samples, np.array([[1.0, 1.0]]), choice)[0] >= 0


def test_the_least_squares_are_those_of_the_weights():
    found = nonnegative(np.ones((2, 1)), np.array([1.0, 4.0]), np.array([1.0, 3.0]))
    assert found == pytest.approx([(1 + 9 * 4) / 10])


def test_a_probe_is_left_out_with_all_its_samples():
    # Two layers of one shape: the third probe's samples are the only slow ones.
    widths = np.array([(8, 8), (16, 16), (32, 32), (8, 8), (16, 16), (32, 32)], float)
    ms = np.array([1.0, 1.0, 9.0, 1.0, 1.0, 9.0])
    _, left_out = choose(Samples(widths, ms, by_output=True), np.array([0, 1, 2, 0, 1, 2]))
    assert left_out[2] == left_out[5] < 3
