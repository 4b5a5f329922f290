from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from layer_records import LIMITS, layer

from dmcp_deploy.bench.layers.roofline import (
    Limits,
    bound_ms,
    last_level_cache_bytes,
    measure_limits,
)
from dmcp_deploy.bench.layers.roofline_nets import STREAM, write_products, write_stream
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.layers import onnx_layers
from dmcp_deploy.runtimes.session import open_session


def test_the_bound_is_the_larger_of_multiplying_and_moving():
    # 40.96M multiply-adds in 0.4096 ms; 5.1 MB in 0.51 ms.
    item = layer("a", 64, 64)
    assert LIMITS.compute_ms(item) == pytest.approx(0.4096)
    assert LIMITS.memory_ms(item) == pytest.approx(4 * (128 * 10_000 + 64 * 64) / 1e7)
    assert LIMITS.layer_ms(item) == LIMITS.memory_ms(item)
    heavy = replace(item, macs=10**9)
    assert LIMITS.layer_ms(heavy) == pytest.approx(10.0)
    assert bound_ms([item, heavy], LIMITS) == LIMITS.layer_ms(item) + 10.0
    assert bound_ms([], LIMITS) == 0


def test_data_that_fits_the_caches_moves_faster():
    limits = replace(LIMITS, cached_gbytes_per_s=50.0, cache_bytes=1000)
    assert limits.memory_ms(layer("a", 8, 8, bytes=1000)) == pytest.approx(1000 / 50e6)
    assert limits.memory_ms(layer("a", 8, 8, bytes=1001)) == pytest.approx(1001 / 10e6)


def test_of_two_measurements_the_higher_figures_count():
    low, high = Limits(1.0, 9.0, 5.0, 10), Limits(2.0, 8.0, None, 0)
    assert low.best(high) == high.best(low) == Limits(2.0, 9.0, 5.0, 10)


@pytest.mark.parametrize("values", [(0.0, 1.0), (1.0, float("nan")), (1.0, 1.0, -1.0)])
def test_limits_are_finite_and_above_zero(values):
    with pytest.raises(DmcpError, match="must be finite and above zero"):
        Limits(*values)


def test_the_largest_cache_is_read(tmp_path):
    assert last_level_cache_bytes(tmp_path / "none") == 0
    for index, size in enumerate(("32K\n", "1024K\n", "16M\n", "odd\n", "\n")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}/size").write_text(size)
    assert last_level_cache_bytes(tmp_path) == 16 * 2**20


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(("op_type", "macs"), [("Conv", 784 * 128 * 128 * 9), ("MatMul", 512**3)])
def test_the_nets_of_large_layers_multiply_what_they_say(tmp_path, op_type, macs, quantized):
    path = tmp_path / "net.onnx"
    shape = write_products(path, op_type, quantized)
    assert [item.macs for item in onnx_layers(path)] == [macs] * 3
    with open_session(path, threads=1) as session:
        found = session.run(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    # Neither zeros nor overflows: some processors take longer for odd numbers.
    assert 0.01 < found.std() < 100


def test_the_stream_reads_and_writes_its_array_once(tmp_path):
    path = tmp_path / "net.onnx"
    shape = write_stream(path, 2**19)
    assert np.prod(shape) * 4 == 2**19
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    with open_session(path, threads=1) as session:
        np.testing.assert_array_equal(session.run(x)[0, :, 0, 0], x[0].max(axis=(1, 2)))
    assert STREAM in path.read_bytes().decode("latin1")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_limits_of_this_machine_have_the_right_order_of_magnitude(runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="no OpenVINO")
    full, int8 = (measure_limits(runtime, 1, quantized=quantized) for quantized in (False, True))
    for limits in (full, int8):
        assert 0.5 < limits.gmacs_per_s < 5000
        assert 0.1 < limits.gbytes_per_s < 1000
