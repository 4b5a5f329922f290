"""TensorRT's profiler: its runtime is a stand-in, on the host-memory CUDA driver."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from engine_files import write_engine
from host_cuda import build_driver, run_python
from tiny_onnx import write_tiny_net

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.layers.record import LayersRecord
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.runtimes.engine_checks import source_onnx

pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")

START = """
import os, sys
os.environ["DMCP_CUDA_CAPABILITY"] = "86"
import fake_tensorrt
sys.modules["tensorrt_rtx"] = fake_tensorrt.module()
import numpy as np
from pathlib import Path
from host_cuda import left_behind
path = Path({path!r})
"""

KERNELS = """
from dmcp_deploy.runtimes.profile import profile_layers
images = np.ones((1, 3, 16, 16), np.float32)
for kernel in profile_layers(path, images, runs=3):
    print(kernel.name, kernel.kind, kernel.layer, kernel.samples_ms, sep="; ")
print(left_behind())
"""

RECORD = """
from dmcp_deploy.bench.layers.measure import measure_layers
from dmcp_deploy.bench.layers.table import format_layers
from dmcp_deploy.options.measure import BenchOptions
record = measure_layers({"engine": path}, BenchOptions(seconds=0.1))
record.save(path.with_name("layers.json"))
print(format_layers(record))
print(left_behind())
"""


def engine(folder: Path) -> Path:
    """Writes an engine beside the ONNX file that it is said to come from."""
    net = write_tiny_net(folder / "net.onnx")
    model = onnx.load(net.path)
    for node, name in ((0, "conv"), (-1, "linear")):
        model.graph.node[node].name = name
    onnx.save(model, net.path)
    layers = ({"name": "conv + relu", "kind": "CaskConvolution", "precision": "fp32"},)
    return write_engine(folder, targets=(), onnx_digest=digest_file(net.path), layers=layers)[0]


def run(path: Path, code: str) -> str:
    return run_python(START.format(path=str(path)) + code, build_driver())


def test_every_run_tells_what_its_layers_took(tmp_path: Path) -> None:
    told = run(engine(tmp_path), KERNELS)
    assert told.splitlines() == [
        "Reformatting CopyNode for Input Tensor 0 to conv; ; None; (0.01, 0.01, 0.01)",
        "conv + relu; CaskConvolution; conv; (0.25, 0.25, 0.25)",
        "linear_myl0_3; ; linear; (0.125, 0.125, 0.125)",
        "{}",
    ]


def test_an_engines_layers_are_recorded_without_limits(tmp_path: Path) -> None:
    title, _, *rows, left = run(engine(tmp_path), RECORD).splitlines()
    assert "the GPU's limits are not measured" in title
    assert [row.split()[0] for row in rows] == ["conv", "linear", "sum", "1", "all", "whole"]
    assert rows[0].split()[:7] == ["conv", "conv", "1x1", "3", ">", "8", "6.1K"]
    (found,) = LayersRecord.load(tmp_path / "layers.json").networks
    assert found.limits is None
    assert found.layers[0].median_ms == 0.25
    assert left == "{}"


def test_the_onnx_file_is_looked_for_beside_and_above(tmp_path: Path) -> None:
    path = engine(tmp_path)
    assert source_onnx(path) == tmp_path / "net.onnx"
    (tmp_path / "engines").mkdir()
    for file in (path, path.with_name("net.engine.json")):
        file.rename(tmp_path / "engines" / file.name)
    assert source_onnx(tmp_path / "engines" / "net.engine") == tmp_path / "net.onnx"
    (tmp_path / "net.onnx").unlink()
    with pytest.raises(DmcpError, match=r"named in net\.onnx, from which it was built"):
        source_onnx(tmp_path / "engines" / "net.engine")
