from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.verify import (
    LARGEST_SNR_DB,
    TOLERANCES,
    Parity,
    compare_outputs,
    require_fidelity,
    require_parity,
)


def test_the_figures_of_a_difference_known_by_hand():
    reference = np.array([[1.0, -4.0], [2.0, 3.0]], dtype=np.float32)
    other = np.array([[1.0, -4.0], [2.5, 2.25]], dtype=np.float32)
    parity = compare_outputs(reference, other)
    # Power: (1 + 16 + 4 + 9) / 4 of the reference, (0.25 + 0.5625) / 4 of the difference.
    snr_db = 10 * math.log10(30 / 0.8125)
    assert parity == Parity(0.75, 0.75 / 4, top1_agreement=0.5, snr_db=pytest.approx(snr_db))
    assert json.loads(json.dumps(parity.to_json())) == {
        "max_abs": 0.75,
        "max_rel": 0.1875,
        "top1_agreement": 0.5,
        "snr_db": parity.snr_db,
    }


def test_small_types_are_compared_exactly():
    reference = np.array([[127, -128]], dtype=np.int8)
    assert compare_outputs(reference, -(reference + 1)).max_abs == 255
    half = np.array([[60000.0, 1.0]], dtype=np.float16)
    assert compare_outputs(half, -half).max_abs == 120000


def test_equal_outputs_have_no_difference_even_if_all_are_zero():
    zeros = np.zeros((2, 3), dtype=np.float32)
    assert compare_outputs(zeros, zeros) == Parity(0.0, 0.0, 1.0, LARGEST_SNR_DB)
    ones = zeros + 1
    assert compare_outputs(ones, ones).snr_db == LARGEST_SNR_DB


def test_a_difference_from_an_all_zero_reference_is_never_within_tolerance():
    zeros = np.zeros((2, 3), dtype=np.float32)
    parity = compare_outputs(zeros, zeros + np.float32(1e-6))
    with pytest.raises(DmcpError, match="disagree"):
        require_parity(parity, 0.5, "a and b")
    assert parity.snr_db == -LARGEST_SNR_DB
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
    parity = Parity(max_abs=0.02, max_rel=2e-3, top1_agreement=0.75, snr_db=50.0)
    require_parity(parity, 2e-3, "ONNX Runtime and torch")
    with pytest.raises(DmcpError) as caught:
        require_parity(parity, 1e-4, "ONNX Runtime and torch")
    assert str(caught.value) == (
        "ONNX Runtime and torch disagree: the largest difference is 0.002 relative (0.02 absolute),"
        " the tolerance is 0.0001, and top-1 agrees on 75.0% of the inputs."
    )


@pytest.mark.parametrize(("noise", "snr_db"), [(1e-3, 60), (0.1, 20), (1.0, 0)])
def test_the_noise_of_a_known_power_has_its_ratio(noise, snr_db):
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((200, 100))
    other = reference + noise * rng.standard_normal(reference.shape)
    assert compare_outputs(reference, other).snr_db == pytest.approx(snr_db, abs=0.2)


def test_figures_of_any_outputs_are_json():
    tiny, huge = np.full((1, 2), 1e-38), np.full((1, 2), 1e38)
    for reference, other in ((tiny, huge), (huge, tiny), (tiny, tiny * 1.0000001)):
        parity = compare_outputs(reference, other)
        assert -LARGEST_SNR_DB <= parity.snr_db <= LARGEST_SNR_DB
        json.dumps(parity.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("precision", "snr_db", "top1"), [("fp16", 47.0, 1.0), ("int8", 15.5, 0.946), ("bf16", 29, 1.0)]
)
def test_a_sound_network_is_within_its_tolerance(precision, snr_db, top1):
    require_fidelity(Parity(1.0, 0.01, top1, snr_db), precision, "it")


@pytest.mark.parametrize("precision", TOLERANCES)
def test_each_figure_beyond_the_tolerance_is_refused(precision):
    allowed = TOLERANCES[precision]
    limit = Parity(1.0, allowed.max_rel, allowed.least_top1_agreement, allowed.least_snr_db)
    require_fidelity(limit, precision, "it")
    for worse in (
        {"snr_db": limit.snr_db - 0.1},
        {"top1_agreement": limit.top1_agreement - 0.01},
        {"max_rel": limit.max_rel * 1.01},
    ):
        with pytest.raises(DmcpError, match=f"it disagree: .* {precision} is allowed"):
            require_fidelity(dataclasses.replace(limit, **worse), precision, "it")


def test_tolerances_grow_with_fewer_bits():
    order = [TOLERANCES[name].least_snr_db for name in ("fp32", "fp16", "bf16", "int8")]
    assert order == sorted(order, reverse=True)


def test_an_infidelity_is_told_with_its_figures():
    # INT8 with one scale per tensor in a network with depthwise convolutions.
    parity = Parity(max_abs=3.0, max_rel=0.4, top1_agreement=0.65, snr_db=6.4)
    with pytest.raises(DmcpError) as caught:
        require_fidelity(parity, "int8", "the int8 and the fp32 network")
    assert str(caught.value) == (
        "the int8 and the fp32 network disagree: the signal-to-noise ratio is 6.4 dB, top-1 agrees"
        " on 65.0% of the inputs and the largest difference is 0.4 relative; int8 is allowed"
        " 10 dB at least and top-1 the same on 85% at least."
    )
    with pytest.raises(DmcpError, match="'int4' and must be one of fp32, fp16, bf16, int8, fp8"):
        require_fidelity(parity, "int4", "it")
