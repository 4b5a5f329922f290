from __future__ import annotations

import numpy as np
import pytest

from dmcp_deploy.bench.ratio import latency_ratio


def _noisy(mean_ms: float, spread: float, rounds: int, seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    return list(mean_ms * np.exp(spread * rng.standard_normal(rounds)))


def test_drift_that_hits_both_cancels():
    base = [5.0] * 20 + [10.0] * 20
    found = latency_ratio(base, [ms * 0.4 for ms in base])
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.4, 0.4))
    assert found.verdict == "faster"


def test_an_outlier_moves_neither_value_nor_verdict():
    base = _noisy(10.0, 0.01, 60, seed=0)
    other = _noisy(10.0, 0.01, 60, seed=1)
    other[7] = 5000.0
    found = latency_ratio(base, other)
    assert found.value == pytest.approx(1.0, abs=0.01)
    assert found.verdict == "no difference"


@pytest.mark.parametrize(
    ("ratio", "spread", "rounds", "verdict"),
    [
        (0.9, 0.03, 100, "faster"),
        (1.1, 0.03, 100, "slower"),
        (1.0, 0.03, 100, "no difference"),
        (0.985, 0.001, 100, "no difference"),
        (1.0, 1.0, 100, "too noisy to tell"),
        (0.9, 1.0, 100, "too noisy to tell"),
        (0.3, 1.0, 100, "faster"),
        (0.3, 0.0, 9, "too noisy to tell"),
        (0.3, 0.0, 10, "faster"),
    ],
)
def test_verdicts(ratio, spread, rounds, verdict):
    base = _noisy(4.0, spread, rounds, seed=2)
    other = _noisy(4.0 * ratio, spread, rounds, seed=3)
    assert latency_ratio(base, other).verdict == verdict


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says():
    trials = 40
    found = [
        latency_ratio(_noisy(5.0, 0.1, 50, 2 * i), _noisy(4.0, 0.1, 50, 2 * i + 1))
        for i in range(trials)
    ]
    held = sum(ratio.low <= 0.8 <= ratio.high for ratio in found)
    assert held >= 0.85 * trials
    assert np.mean([ratio.high - ratio.low for ratio in found]) < 0.15


def test_the_interval_widens_with_disturbances_that_last_several_rounds():
    calm = _noisy(1.0, 0.1, 120, seed=5)
    lasting = list(np.repeat(_noisy(1.0, 0.1, 24, seed=5), 5))
    narrow, wide = (latency_ratio([1.0] * 120, samples) for samples in (calm, lasting))
    assert wide.high - wide.low > 1.2 * (narrow.high - narrow.low)


def test_the_same_samples_give_the_same_interval():
    base, other = _noisy(5.0, 0.2, 40, seed=1), _noisy(4.0, 0.2, 40, seed=2)
    assert latency_ratio(base, other) == latency_ratio(base, other)
