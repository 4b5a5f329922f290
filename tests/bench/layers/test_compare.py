from __future__ import annotations

from dataclasses import replace

import pytest
from layer_records import HALF, LIMITS, WHOLE, layer, profiled, timed

from dmcp_deploy.bench.layers.compare import LayerComparison, compare_layer
from dmcp_deploy.bench.layers.record import LayerTime
from dmcp_deploy.onnxgraph.layers import OnnxLayer


def test_a_layer_that_got_faster_as_its_macs_fell_has_no_reason():
    found = compare_layer(HALF.layers[0], HALF, WHOLE)
    assert found is not None
    assert (found.macs_ratio, found.time_ratio.value, found.reason) == (0.5, 0.5, "")


def test_a_layer_that_the_first_network_lacks_is_not_compared():
    assert compare_layer(WHOLE.layers[2], WHOLE, HALF) is None


def test_noise_that_reaches_the_macs_ratio_is_no_lag():
    base = LayerTime(layer("a", 64, 64), (1.0,) * 20)
    noisy = LayerTime(layer("a", 64, 61), (0.5, 1.9) * 10)
    assert against(noisy, base).reason == ""


def reason(
    before: OnnxLayer, after: OnnxLayer, time_ms: float, base_ms: float = 1.0, **changes: object
) -> str:
    return against(timed(after, time_ms), timed(before, base_ms), **changes).reason


def against(item: LayerTime, base: LayerTime, **changes: object) -> LayerComparison:
    network = replace(profiled("new", item), **changes)  # type: ignore[arg-type]
    found = compare_layer(item, network, profiled("old", base))
    assert found is not None
    return found


def test_a_width_that_is_no_multiple_of_8_comes_first_and_says_which():
    before = layer("a", 64, 64)
    told = "width not a multiple of 8"
    assert reason(before, layer("a", 37, 32), 1.0) == f"{told} (in 37)"
    assert reason(before, layer("a", 32, 61), 1.0) == f"{told} (out 61)"
    assert reason(before, layer("a", 37, 61), 1.0) == f"{told} (in 37, out 61)"
    depthwise = replace(before, kind="depthwise", groups=64, macs=640_000)
    narrow = replace(layer("a", 37, 37), kind="depthwise", groups=37, macs=370_000)
    assert reason(depthwise, narrow, 1.0) == f"{told} (37)"


def test_a_width_that_was_odd_before_explains_nothing():
    before, after = layer("a", 3, 64), layer("a", 3, 32)
    assert reason(before, after, 1.0) == "unexplained"


def test_multiples_of_16_are_named_where_they_explain_the_time():
    before = layer("a", 32, 192)
    # Rounded up to 32 and 144, three quarters of the multiply-adds are left, and not 53%.
    after = layer("a", 24, 136)
    assert reason(before, after, 0.75) == "width not a multiple of 16 (in 24, out 136)"
    assert reason(before, after, 2.00) == "unexplained"
    # Less than one vector of 16 is slower than rounding up tells.
    narrow = layer("a", 8, 64)
    assert reason(before, narrow, 2.00) == "width not a multiple of 16 (in 8)"


@pytest.mark.parametrize(("time_ms", "expected"), [(0.5, "memory bound"), (3.0, "unexplained")])
def test_memory_bound_is_what_moving_data_alone_takes_half_of_the_time_for(time_ms, expected):
    # 3.9 MB take 0.39 ms; 10M multiply-adds 0.1 ms.
    before, after = layer("a", 64, 64), layer("a", 32, 32)
    assert LIMITS.memory_ms(after) == pytest.approx(0.256, abs=0.01)
    assert reason(before, after, time_ms, base_ms=time_ms) == expected


def test_without_limits_nothing_is_called_memory_bound():
    before, after = layer("a", 64, 64), layer("a", 32, 32)
    assert reason(before, after, 0.5, base_ms=0.5, limits=None) == "unexplained"


def test_launch_bound_is_near_the_smallest_kernel_and_short():
    before, after = layer("a", 64, 64, bytes=100), layer("a", 32, 32, bytes=50)
    # The smallest kernel takes 5 microseconds.
    assert reason(before, after, 0.009, base_ms=0.009) == "launch bound"
    assert reason(before, after, 0.011, base_ms=0.011) == "unexplained"
    # Where there is nothing small, the smallest says nothing.
    assert reason(before, after, 1.0, others=()) == "unexplained"


def test_depthwise_is_the_last_reason():
    before = layer("a", 64, 64, kind="depthwise", groups=64, macs=6_400_000, bytes=100)
    after = layer("a", 32, 32, kind="depthwise", groups=32, macs=3_200_000, bytes=50)
    assert reason(before, after, 1.0) == "depthwise"
    assert reason(before, replace(after, bytes=10**7), 1.0) == "memory bound"
