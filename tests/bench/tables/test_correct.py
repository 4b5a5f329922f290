from __future__ import annotations

import numpy as np
import pytest

from dmcp_deploy.bench.tables.correct import Terms, correct

#: Six layers of two terms each, of two kinds; the last term lies outside of all layers.
BELIEVED = np.array([1.0, 3.0, 2.0, 2.0, 0.5, 1.5, 1.0, 1.0, 2.0, 4.0, 0.0, 1.0, 0.5])
LAYERS = np.array([4.0, 4.0, 4.0, 4.0, 2.0, 2.0, 2.0, 2.0, 6.0, 6.0, 1.0, 1.0, 0.5])
KINDS = np.array([0] * 6 + [1] * 6 + [-1])
ALONE = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, -1])
TERMS = Terms(BELIEVED, LAYERS, (KINDS, ALONE))


def plans(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = rng.uniform(0.1, 1, (count, len(BELIEVED)))
    drawn[:, -1] = 1
    return drawn


def errors_after(truth: np.ndarray, noise: float = 0.0) -> np.ndarray:
    """Returns relative errors on new plans, corrected by plans of a truth."""
    shares, new = plans(80, 0), plans(50, 1)
    measured = shares @ truth * np.random.default_rng(2).normal(1, noise, 80)
    corrected = correct(TERMS, shares, measured)
    assert (corrected.terms_ms >= 0).all()
    return np.asarray(new @ corrected.terms_ms / (new @ truth) - 1)


def test_a_slope_and_what_lies_outside_are_found():
    truth = np.append(1.3 * BELIEVED[:-1], 2.0)
    before = plans(50, 1) @ BELIEVED / (plans(50, 1) @ truth) - 1
    assert np.abs(before).min() > 0.2
    assert np.abs(errors_after(truth)).max() < 0.01
    assert np.abs(errors_after(truth, noise=0.01)).max() < 0.02


def test_kinds_and_single_layers_that_are_off_are_found():
    truth = BELIEVED * np.where(KINDS == 0, 0.8, 1.2) * np.where(ALONE == 4, 1.5, 1.0)
    assert np.abs(errors_after(truth, noise=0.01)).max() < 0.03


def test_what_is_right_stays_as_it_is():
    corrected = correct(TERMS, plans(80, 0), plans(80, 0) @ BELIEVED)
    assert corrected.terms_ms == pytest.approx(BELIEVED)
    assert corrected.errors == pytest.approx(np.zeros(80), abs=1e-9)


def test_no_term_falls_below_zero():
    truth = BELIEVED.copy()
    truth[[1, 3, 5]] = 0.0
    corrected = correct(TERMS, plans(80, 0), plans(80, 0) @ truth)
    assert (corrected.terms_ms >= 0).all()
    assert corrected.terms_ms[[1, 3, 5]] == pytest.approx(np.zeros(3), abs=0.2)


def test_a_few_disturbed_plans_count_little():
    shares, truth = plans(80, 0), 1.2 * BELIEVED
    measured = shares @ truth
    measured[::10] *= 1.8
    corrected = correct(TERMS, shares, measured)
    assert np.abs(plans(50, 1) @ corrected.terms_ms / (plans(50, 1) @ truth) - 1).max() < 0.03


def test_the_errors_are_those_of_plans_that_were_left_out():
    shares = plans(30, 0)
    measured = shares @ BELIEVED * np.random.default_rng(3).normal(1, 0.03, 30)
    corrected = correct(TERMS, shares, measured)
    fitted = shares @ corrected.terms_ms / measured - 1
    assert np.abs(corrected.errors).mean() > np.abs(fitted).mean()
    assert np.abs(corrected.errors).mean() == pytest.approx(0.03, rel=0.5)
