from __future__ import annotations

import json

import numpy as np
import pytest

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.verify import Parity, compare_outputs, require_parity


def test_the_figures_of_a_difference_known_by_hand():
    reference = np.array([[1.0, -4.0], [2.0, 3.0]], dtype=np.float32)
    other = np.array([[1.0, -4.0], [2.5, 2.25]], dtype=np.float32)
    parity = compare_outputs(reference, other)
    assert parity == Parity(max_abs=0.75, max_rel=0.75 / 4, top1_agreement=0.5)
    assert json.loads(json.dumps(parity.to_json())) == {
        "max_abs": 0.75,
        "max_rel": 0.1875,
        "top1_agreement": 0.5,
    }


def test_small_types_are_compared_exactly():
    reference = np.array([[127, -128]], dtype=np.int8)
    assert compare_outputs(reference, -(reference + 1)).max_abs == 255
    half = np.array([[60000.0, 1.0]], dtype=np.float16)
    assert compare_outputs(half, -half).max_abs == 120000


def test_equal_outputs_have_no_difference_even_if_all_are_zero():
    zeros = np.zeros((2, 3), dtype=np.float32)
    assert compare_outputs(zeros, zeros) == Parity(0.0, 0.0, 1.0)


def test_a_difference_from_an_all_zero_reference_is_never_within_tolerance():
    zeros = np.zeros((2, 3), dtype=np.float32)
    parity = compare_outputs(zeros, zeros + np.float32(1e-6))
    with pytest.raises(DmcpError, match="disagree"):
        require_parity(parity, 0.5, "a and b")
    json.dumps(parity.to_json(), allow_nan=False)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_values_that_are_not_finite_are_refused(value, side):
    outputs = [np.ones((2, 3), dtype=np.float32), np.ones((2, 3), dtype=np.float32)]
    outputs[side][1, 2] = value
    with pytest.raises(DmcpError, match=r"1 of 6 values that are NaN or infinite"):
        compare_outputs(*outputs)


@pytest.mark.parametrize(
    ("left", "right"), [((2, 3), (2, 4)), ((3,), (3,)), ((0, 3), (0, 3)), ((2, 3), (1, 3))]
)
def test_shapes_that_cannot_be_compared_are_refused(left, right):
    with pytest.raises(DmcpError, match=r"Outputs of shape"):
        compare_outputs(np.ones(left), np.ones(right))


def test_parity_is_required_with_the_figures():
    parity = Parity(max_abs=0.02, max_rel=2e-3, top1_agreement=0.75)
    require_parity(parity, 2e-3, "ONNX Runtime and torch")
    with pytest.raises(DmcpError) as caught:
        require_parity(parity, 1e-4, "ONNX Runtime and torch")
    assert str(caught.value) == (
        "ONNX Runtime and torch disagree: the largest difference is 0.002 relative (0.02 absolute),"
        " the tolerance is 0.0001, and top-1 agrees on 75.0% of the inputs."
    )
