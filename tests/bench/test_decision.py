"""The decision rule on simulated machines: how often it errs, and that its intervals hold."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from dmcp_deploy.bench.decision import (
    _STUDENT,
    LEAST_LOADS,
    Decision,
    decide_by_loads,
    decide_unpaired,
    load_log_ratio,
)
from dmcp_deploy.bench.timing import is_turned

GATES = 400
MOST_LOADS = 24
ROUNDS = 70

#: As measured on two cores that five processes share: neighbours cost 5% of the calls up to
#: thirty times their length, the loads of one file scatter by 1%, in either order.
BUSY = {"jitter": 0.06, "interrupted": 0.1, "placement": 0.015}
#: What no gate can see through.
HOPELESS = {"jitter": 0.3, "interrupted": 0.4, "placement": 0.05, "rounds": 6}


def simulated_loads(
    rng: np.random.Generator,
    ratio: float,
    *,
    jitter: float,
    interrupted: float,
    placement: float,
    rounds: int = ROUNDS,
    most: int = MOST_LOADS,
):
    """Yields loads of two networks whose true ratio is known, with every ill of a real machine."""
    for number in range(most):
        wave = 0.05 * math.sin(number) + np.cumsum(0.01 * rng.standard_normal(rounds))
        swapped = np.repeat(rng.integers(0, 2, -(-rounds // 4)), 4)[:rounds]
        second = (np.resize([0, 1, 1, 0], rounds) + swapped) % 2
        load = []
        for who in (0, 1):
            own = jitter * _autocorrelated(rng, rounds)
            own += rng.uniform(-placement, placement) + 0.01 * (is_turned(number) == who)
            own += 0.02 * (second == who)
            own += (rng.random(rounds) < interrupted) * rng.exponential(1.5, rounds)
            load.append(np.exp(wave + own + who * math.log(ratio)).tolist())
        yield tuple(load)


def _autocorrelated(rng, count):
    noise = rng.standard_normal(count)
    for i in range(1, count):
        noise[i] = 0.6 * noise[i - 1] + 0.8 * noise[i]
    return noise


def simulated_gates(ratio, count=GATES, seed=0, limit=0.05, **noise) -> list[Decision]:
    rng = np.random.default_rng(seed)
    return [decide_by_loads(simulated_loads(rng, ratio, **noise), limit) for _ in range(count)]


def verdicts(decisions) -> Counter:
    return Counter(decision.verdict for decision in decisions)


def test_equal_networks_pass_and_their_mean_ratio_is_one():
    found = simulated_gates(1.0, **BUSY)
    assert verdicts(found) == {"within the limit": GATES}
    assert np.mean([decision.ratio for decision in found]) == pytest.approx(1.0, abs=0.003)


def test_a_slowdown_of_twice_the_limit_is_caught():
    found = simulated_gates(1.1, **BUSY)
    assert verdicts(found)["regression"] >= GATES * 198 / 200
    assert np.mean([decision.ratio for decision in found]) == pytest.approx(1.1, abs=0.004)


def test_a_slowdown_of_the_limit_itself_is_seldom_an_alarm():
    found = verdicts(simulated_gates(1.05, count=100, **BUSY))
    assert found["regression"] <= 2
    assert found["too noisy to tell"] >= 90


def test_noise_that_hides_everything_gives_no_alarm_and_no_all_clear():
    found = verdicts(simulated_gates(1.0, **HOPELESS))
    assert found["regression"] <= GATES / 200
    slow = verdicts(simulated_gates(1.1, count=100, **HOPELESS))
    assert slow["within the limit"] <= 1
    assert slow["too noisy to tell"] >= 90


def test_the_interval_holds_the_true_ratio_as_often_as_it_says():
    found = simulated_gates(1.2, seed=5, limit=0.2, count=100, **BUSY)
    assert sum(decision.low <= 1.2 <= decision.high for decision in found) > 0.98 * 100
    assert np.mean([decision.high - decision.low for decision in found]) < 0.05


def test_a_network_that_got_faster_is_said_to_be():
    assert verdicts(simulated_gates(0.85, count=20, **BUSY)) == {"faster": 20}


def test_no_more_loads_are_taken_than_are_needed():
    taken = itertools.count()
    endless = (([1.0] * 4, [1.2] * 4) for _ in taken)
    assert decide_by_loads(endless, 0.05).verdict == "regression"
    assert next(taken) == LEAST_LOADS


def test_what_comes_with_the_order_of_loading_cancels_and_does_not_widen():
    pair = [1.0] * 4, [1.03] * 4
    loads = [pair[::-1] if is_turned(number) else pair for number in range(LEAST_LOADS)]
    found = decide_by_loads(loads, 0.05)
    same = decide_by_loads([([1.0] * 4, [1.0] * 4)] * 8, 0.05)
    assert found.ratio == pytest.approx(1.0)
    assert (found.low, found.high) == pytest.approx((same.low, same.high))
    assert same.low < 0.99  # equal figures are luck, not certainty


def test_too_few_loads_say_nothing():
    found = decide_by_loads([([1.0] * 4, [9.0] * 4)] * (LEAST_LOADS - 1), 0.05)
    assert found.verdict == "too noisy to tell"


def test_place_and_interruptions_cancel_within_a_pair_of_rounds():
    # The second call of a round takes 10% longer, and one call in four is interrupted.
    old = [1.0, 1.1, 7.0, 1.0]
    new = [1.1, 1.0, 1.0, 9.0]
    assert load_log_ratio(old, new) == pytest.approx(0.0)
    assert load_log_ratio(old[:2], new[:2]) == pytest.approx(0.0)


def test_what_a_call_gains_by_following_itself_cancels_in_four_rounds():
    old = [1.0, 1.0, 1.0, 0.9]  # first and last of four: A B, B A, B A, A B
    new = [1.0, 0.9, 1.0, 1.0]
    assert load_log_ratio(old, new) == pytest.approx(0.0)
    assert load_log_ratio(old + [1.0] * 2, new + [5.0] * 2) == pytest.approx(0.0)  # two left over


@pytest.mark.parametrize(("place", "freedom"), list(enumerate(range(6, 32, 2))))
def test_the_quantiles_are_students(place, freedom):
    x = np.linspace(0, _STUDENT[place], 200_001)
    scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
    density = scale * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    area = float(((density[1:] + density[:-1]) / 2).sum() * (x[1] - x[0]))
    assert area == pytest.approx(0.499, abs=2e-6)


def measurement(rng, ratio, drift=0.0, jitter=0.03):
    """Four loads of one network at another occasion, as `measure_artifacts` puts them together."""
    parts = [
        np.exp(
            math.log(ratio)
            + drift
            + rng.uniform(-0.01, 0.01)
            + jitter * _autocorrelated(rng, 100)
            + (rng.random(100) < 0.1) * rng.exponential(1.5, 100)
        )
        for _ in range(4)
    ]
    return np.concatenate(parts).tolist()


def test_a_stored_baseline_tells_equal_from_slower_where_the_machine_held_still():
    rng = np.random.default_rng(0)
    same = [decide_unpaired(measurement(rng, 1), measurement(rng, 1), 0.05) for _ in range(8)]
    slow = [decide_unpaired(measurement(rng, 1), measurement(rng, 1.1), 0.05) for _ in range(8)]
    assert verdicts(same)["regression"] == 0
    assert verdicts(same)["within the limit"] >= 6
    assert verdicts(slow)["regression"] >= 6
    assert all(d.low <= 1.0 <= d.high for d in same)
    assert all(d.low <= 1.1 <= d.high for d in slow)


def test_a_disturbance_that_lasted_makes_a_stored_baseline_too_noisy():
    rng = np.random.default_rng(1)
    calm, half = measurement(rng, 1), measurement(rng, 1)
    half[: len(half) // 2] = [ms * 1.5 for ms in half[: len(half) // 2]]
    assert decide_unpaired(calm, half, 0.05).verdict == "too noisy to tell"


def test_few_samples_say_nothing():
    found = decide_unpaired([1.0] * 9, [2.0] * 100, 0.05)
    assert (found.ratio, found.verdict) == (2.0, "too noisy to tell")
