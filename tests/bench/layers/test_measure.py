from __future__ import annotations

import numpy as np
import pytest
from tiny_onnx import write_tiny_net

from dmcp_deploy.bench.artifacts import NetworkArtifact
from dmcp_deploy.bench.layers import measure as layers
from dmcp_deploy.bench.layers.measure import measure_layers, timed
from dmcp_deploy.bench.layers.record import LayersRecord
from dmcp_deploy.bench.layers.roofline import Limits
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.layers import onnx_layers
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.runtimes.profile import KernelTime


@pytest.fixture
def asked_limits(monkeypatch):
    """Stands in for what takes a second a time; the arguments of every call, and rising peaks."""
    calls = []

    def measure(runtime, threads, *, quantized):
        calls.append((runtime, threads, quantized))
        return Limits(float(len(calls)), 10.0)

    monkeypatch.setattr(layers, "measure_limits", measure)
    return calls


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_two_networks_are_profiled_side_by_side(tmp_path, asked_limits, runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="no OpenVINO")
    nets = {"wide": write_tiny_net(tmp_path / "wide.onnx", width=64).path}
    nets["slim"] = write_tiny_net(tmp_path / "slim.onnx", width=32).path
    record = measure_layers(nets, BenchOptions([2], 1, 0.1, runtime))
    assert [item.name for item in record.networks] == ["wide", "slim"]
    assert record.input_shape == (3, 16, 16)
    for item in record.networks:
        assert (item.batch, item.threads, item.path) == (2, 1, f"{item.name}.onnx")
        assert item.runtime.startswith(runtime)
        assert tuple(found.layer for found in item.layers) == onnx_layers(nets[item.name], 2)
        assert item.without_kernel == ()
        assert item.others
        # The best of three measurements, each made once for both networks.
        assert item.limits == Limits(3.0, 10.0)
    assert asked_limits == [(runtime, 1, False)] * 3
    record.save(tmp_path / "layers.json")
    assert LayersRecord.load(tmp_path / "layers.json") == record


def test_a_layers_kernels_count_together_and_other_kinds_do():
    shapes = [shape("a"), shape("b"), shape("merged")]
    part = [
        KernelTime("k1", "Conv", "a", (1.0, 2.0)),
        KernelTime("k2", "Conv", "a", (0.5, 0.25)),
        KernelTime("r1", "Reorder", None, (0.125, 0.25)),
        KernelTime("k3", "Gemm", "b", (4.0, 5.0)),
        KernelTime("r2", "Reorder", None, (0.125, 0.25)),
    ]
    found = timed(shapes, [part, [part[0], part[3]]])
    assert [item.layer.name for item in found["layers"]] == ["a", "b"]
    assert found["without_kernel"] == ("merged",)
    first, second = found["layers"]
    assert first.samples_ms == (1.5, 2.25, 1.0, 2.0)
    assert second.samples_ms == (4.0, 5.0, 4.0, 5.0)
    (reorders,) = found["others"]
    assert (reorders.kind, reorders.count) == ("Reorder", 2)
    # A kernel that was not told of in a part was too short for that.
    np.testing.assert_allclose(reorders.samples_ms, [0.25, 0.5, 0.0, 0.0], atol=1e-3)
    assert min(reorders.samples_ms) > 0


def shape(name):
    from layer_records import layer

    return layer(name, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"artifacts": {}}, "nothing to measure"),
        ({"seconds": 0.0}, "must be above zero"),
        ({"batches": [0]}, "each must be 1 or more"),
        ({"batches": [2]}, "fixed batch size 1"),
        ({"runtime": "openvin"}, "did you mean openvino"),
        ({"threads": -1}, "--threads -1 is too small"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(tmp_path, asked_limits, changes, message):
    net = write_tiny_net(tmp_path / "net.onnx", batch=1)
    files = changes.pop("artifacts", {"net": net.path})
    with pytest.raises(DmcpError, match=message):
        measure_layers(files, BenchOptions(**{"threads": 1, "seconds": 0.1, **changes}))
    assert asked_limits == []


def test_a_network_in_torch_has_no_profile(tmp_path):
    def never():
        raise AssertionError("it is not built")

    net = NetworkArtifact(tmp_path / "dense.safetensors", never, (3, 16, 16), 1000)
    with pytest.raises(DmcpError, match="runs in torch, whose layers are not profiled"):
        measure_layers({"net": net}, BenchOptions([1], 1, 0.1))


def test_an_engine_without_its_onnx_file_says_what_to_copy(tmp_path):
    from engine_files import write_engine

    path, _ = write_engine(tmp_path)
    with pytest.raises(DmcpError, match=r"driver|named in net\.onnx"):
        measure_layers({"engine": path}, BenchOptions([1], 0, 0.1))
