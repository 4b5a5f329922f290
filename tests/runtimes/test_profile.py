"""Kernels of real runs, and the layers they are found to compute."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tiny_onnx import write_tiny_net

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.layers import onnx_layers
from dmcp_deploy.runtimes.onnxruntime import kernels_of_events
from dmcp_deploy.runtimes.openvino import RUNS_PER_LOAD, mean_after
from dmcp_deploy.runtimes.profile import KernelTime, profile_layers

RUNTIMES = ("onnxruntime", "openvino")


def images(side: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, 3, side, side), dtype=np.float32)


def kernels(path: Path, side: int, runtime: str, runs: int = 5) -> tuple[KernelTime, ...]:
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="no OpenVINO")
    return profile_layers(path, images(side), runtime=runtime, threads=1, runs=runs)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("batch", ["batch", 1])
def test_every_layer_of_a_net_without_names_is_found_once(tmp_path, runtime, batch):
    net = write_tiny_net(tmp_path / "net.onnx", batch=batch)
    found = kernels(net.path, 16, runtime)
    assert [kernel.layer for kernel in found if kernel.layer] == ["conv", "linear"]
    assert len(found) > 2
    assert all(ms > 0 for kernel in found for ms in kernel.samples_ms)


def test_onnx_runtime_gives_a_sample_a_run_and_leaves_no_file(tmp_path, monkeypatch):
    net = write_tiny_net(tmp_path / "net.onnx")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    found = kernels(net.path, 16, "onnxruntime", runs=7)
    assert {len(kernel.samples_ms) for kernel in found} == {7}
    assert list((tmp_path / "temporary").iterdir()) == []


def test_openvino_gives_a_mean_a_load(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx", size=64, width=64)
    found = kernels(net.path, 64, "openvino", runs=2 * RUNS_PER_LOAD + 1)
    assert {len(kernel.samples_ms) for kernel in found} == {3}


def test_longer_work_takes_longer(tmp_path):
    small = write_tiny_net(tmp_path / "small.onnx", size=16)
    large = write_tiny_net(tmp_path / "large.onnx", size=512, width=64)
    for runtime in RUNTIMES:
        took = [
            min(next(k.samples_ms for k in kernels(net.path, side, runtime) if k.layer == "conv"))
            for net, side in ((small, 16), (large, 512))
        ]
        assert took[1] > 5 * took[0]  # 8192 times the multiply-adds


def test_runs_below_one_and_unknown_runtimes_are_refused(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx")
    with pytest.raises(DmcpError, match="number of profiled runs is 0"):
        profile_layers(net.path, images(16), runs=0)
    with pytest.raises(DmcpError, match="did you mean openvino"):
        profile_layers(net.path, images(16), runtime="openvin")
    with pytest.raises(DmcpError, match="does not run on"):
        profile_layers(net.path, images(8))


def test_events_become_samples_of_the_last_runs():
    def event(name, ts, dur, op_name="", node_index=""):
        args = {"op_name": op_name, "node_index": node_index}
        return {"name": name, "ts": ts, "dur": dur, "args": args}

    events = [event("session_initialization", 0, 50)]
    for run, slower in enumerate((100, 0, 10)):
        start = 100 + 1000 * run
        events += [
            event("model_run", start, 500),
            event("conv_kernel_time", start + 1, 20 + slower, "Conv", "0"),
            event("loop_kernel_time", start + 200, 90, "Loop", "1"),
            event("add_kernel_time", start + 210, 3, "Add", "2"),
            event("add_kernel_time", start + 220, 4, "Add", "2"),
            event("conv_fence_before", start + 300, 1),
        ]
    found = kernels_of_events(events, runs=2)
    assert [(kernel.name, kernel.kind) for kernel in found] == [("conv", "Conv"), ("add", "Add")]
    # Microseconds, rounded down, are in the middle half a microsecond more.
    np.testing.assert_allclose(
        [kernel.samples_ms for kernel in found], [[0.0205, 0.0305], [0.008] * 2]
    )


def test_the_mean_of_the_last_runs_comes_from_two_means_over_all():
    # 3 runs of 1000 us and 5 of 100: 437.5 us on average.
    assert mean_after(1000, 437) == pytest.approx(0.1, abs=1e-3)
    assert mean_after(0, 0) == 0.0005
    assert mean_after(9, 3) == 0.0005


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """torchvision's networks as this package exports them, in three precisions."""
    torchvision = pytest.importorskip("torchvision")
    from dmcp_deploy.export.lower_precision import to_half
    from dmcp_deploy.export.quantize import quantize_int8
    from dmcp_deploy.export.to_onnx import export_onnx

    folder = tmp_path_factory.mktemp("networks")
    calibration = np.repeat(images(32), 32, axis=0)
    files = {}
    for name in ("mobilenet_v2", "resnet18"):
        net = torchvision.models.get_model(name, weights=None).eval()
        files[name] = export_onnx(net, folder / f"{name}.onnx", input_shape=(3, 32, 32)).path
        half, int8 = folder / f"{name}.fp16.onnx", folder / f"{name}.int8.onnx"
        files[f"{name} fp16"] = to_half(files[name], half, "fp16").path
        files[f"{name} int8"] = quantize_int8(files[name], int8, calibration, preset="cpu").path
    return files


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("precision", ["", " fp16", " int8"])
@pytest.mark.parametrize(("name", "layers"), [("mobilenet_v2", 53), ("resnet18", 21)])
def test_every_layer_of_a_real_network_is_found_once(exported, name, precision, layers, runtime):
    path = exported[name + precision]
    names = [layer.name for layer in onnx_layers(path)]
    found = Counter(kernel.layer for kernel in kernels(path, 32, runtime) if kernel.layer)
    assert found == Counter(names)
    assert len(names) == layers
    first, last = {"mobilenet_v2": ("features.0.0", "classifier.1"), "resnet18": ("conv1", "fc")}[
        name
    ]
    assert (names[0], names[-1]) == (first, last)
