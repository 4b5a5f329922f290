"""What the tests take for rounding: sums in any order stay below it, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from closeness import assert_same, count_roundings, difference, rounding_bound
from torch import nn


@pytest.mark.parametrize("terms", [9, 300, 10_000])
def test_sums_one_by_one_in_two_orders_differ_by_less_but_not_by_nothing(terms: int) -> None:
    products = np.random.default_rng(0).standard_normal((500, terms)).astype(np.float32)
    forth, back = (rows.cumsum(axis=1)[:, -1] for rows in (products, products[:, ::-1]))
    assert_same(forth, back, roundings=terms)
    assert difference(forth, back) > rounding_bound(terms) / 100


def test_a_difference_beyond_rounding_is_told_with_its_size() -> None:
    wanted = torch.tensor([4.0, -8.0])
    assert_same(wanted + 2e-6, wanted)
    with pytest.raises(AssertionError, match=r"bias differs by 1e-05, of 8 that is 1\.3e-06"):
        assert_same(wanted + 1e-5, wanted, about="bias")
    assert_same(wanted + 1e-5, wanted, roundings=100)
    assert_same(wanted + 1e-5, wanted, scale=100.0)
    assert_same(wanted + 1e-2, wanted, precision="fp16")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_never_the_same(bad: float) -> None:
    for actual, wanted in ((bad, 1.0), (1.0, bad), (bad, bad)):
        with pytest.raises(AssertionError):
            assert_same(actual, wanted)


def test_of_nothing_but_zeros_nothing_may_differ() -> None:
    assert_same([0.0, 0.0], [0.0, 0.0])
    with pytest.raises(AssertionError):
        assert_same([0.0, 1e-30], [0.0, 0.0])


def test_values_of_another_shape_are_not_the_same() -> None:
    with pytest.raises(AssertionError, match=r"\(2,\) is not \(1,\)"):
        assert_same([1.0, 1.0], [1.0])


def test_the_roundings_of_a_network_are_the_products_of_its_layers() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 5))
    assert count_roundings(network) == (27 + 1) + (1 + 1) + (8 + 1)
