"""Differences between methods, by hand."""

from __future__ import annotations

import math

import pytest

from dmcp_deploy.comparison.rows import deviation, paired_difference


def test_pairs_cancel_what_they_share() -> None:
    # Seeds differ by 10, the methods by 1 every time.
    found = paired_difference([11.0, 21.0, 31.0], [10.0, 20.0, 30.0])
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)


def test_the_interval_is_students() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1; t(0.975, 2) = 4.303; half = 4.303 / sqrt(3).
    found = paired_difference([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert found.mean == 2.0
    assert found.high - found.mean == pytest.approx(4.303 / math.sqrt(3))
    assert found.mean - found.low == pytest.approx(4.303 / math.sqrt(3))


def test_one_seed_shows_nothing() -> None:
    found = paired_difference([2.0], [1.0])
    assert (found.mean, found.low, found.high) == (1.0, -math.inf, math.inf)
    assert math.isnan(deviation([1.0]))


def test_many_seeds_take_the_last_quantile_known() -> None:
    ours = [float(i % 2) for i in range(40)]
    found = paired_difference(ours, [0.0] * 40)
    spread = deviation(ours) / math.sqrt(40)
    assert found.high - found.mean == pytest.approx(2.042 * spread)


def test_unequal_numbers_of_seeds_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1.0, 2.0], [1.0])
