"""What widths are worth: by hand-made probabilities, between widths, and far from likely ones."""

from __future__ import annotations

import numpy as np
import pytest
from search_problems import chain_network

from dmcp_deploy.search.space import search_space
from dmcp_deploy.search.worth import log_worth, near_worth


def test_log_probabilities_lie_on_a_line_between_the_widths_of_the_space():
    space = search_space(chain_network([20]))  # 2, 4, ..., 20
    likely = np.array([[0.1, 0.2, 0.05, 0.15, 0.1, 0.05, 0.1, 0.1, 0.05, 0.1]])
    (row,) = log_worth(space, likely, [np.array([1, 2, 3, 4, 16, 20])])
    low, high = np.log([0.1, 0.2])
    expected = [low, low, (low + high) / 2, high, np.log(0.1), np.log(0.1)]
    assert row == pytest.approx(expected, abs=1e-12)


def test_of_improbable_widths_the_nearer_ones_are_worth_more():
    space = search_space(chain_network([20]))
    certain = np.zeros((1, 10))
    certain[0, 6] = 1.0  # 14 channels
    (row,) = log_worth(space, certain, [np.arange(2, 21, 2)])
    assert row[6] == 0.0
    assert (np.diff(row[:7]) > 0).all()
    assert (np.diff(row[6:]) < 0).all()
    assert row[4] == pytest.approx(2 * np.log(0.25))


def test_padding_of_the_probabilities_counts_for_nothing():
    space = search_space(chain_network([20, 4]))
    likely = np.full((2, 10), 0.1)
    likely[1] = [0.25, 0.25, 0.25, 0.25, *[0.0] * 6]
    rows = log_worth(space, likely, [np.array([20]), np.array([1, 2, 3, 4])])
    assert rows[1] == pytest.approx([np.log(0.25)] * 4)


def test_nearness_is_relative_to_the_wanted_width():
    rows = near_worth(np.array([10.0, 100.0]), [np.array([5, 10, 15]), np.array([50, 100])])
    assert rows[0] == pytest.approx([-0.25, 0.0, -0.25])
    assert rows[1] == pytest.approx([-0.25, 0.0])
