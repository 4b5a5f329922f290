"""The `tensorrt` flavour, which builds on the device: RTX's builder stands in for its own.

Both modules have the same classes (tests/runtimes/test_trt_conformance.py compares them), so what
differs here is what the flavour's table says. The GPU is the host-memory CUDA driver's.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from host_cuda import broken_driver, build_driver, run_python
from tiny_onnx import write_tiny_net

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed on this platform")

START = """
import sys, types, warnings
warnings.simplefilter("ignore")
import tensorrt_rtx
module = types.ModuleType("tensorrt")
module.__dict__.update({{k: v for k, v in vars(tensorrt_rtx).items() if k != "ComputeCapability"}})
module.__version__ = {version!r}
sys.modules["tensorrt"] = module
import json
from pathlib import Path
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.engine import EngineOptions, Origin, build_engine
folder = Path({folder!r})
try:
    options = EngineOptions("tensorrt", **{options})
    path, record = build_engine(folder / "net.onnx", folder / "engines", options, Origin(1, 1))
    print(json.dumps([path.name, record.gpu, record.targets, record.options]))
except DmcpError as err:
    print("error:", err)
"""


def build(folder: Path, driver: Path, version: str = "10.3.0", options: str = "{}") -> str:
    write_tiny_net(folder / "net.onnx")
    code = START.format(version=version, folder=str(folder), options=options)
    return run_python(code, driver).strip()


@pytest.fixture(scope="module")
def driver() -> Path:
    return build_driver()


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1.11", "11.4.0.106"])
def test_an_engine_is_built_for_the_gpu_at_hand_and_names_it(
    tmp_path: Path, driver: Path, version: str
) -> None:
    name, gpu, targets, _ = json.loads(build(tmp_path, driver, version))
    assert name == "net.fp32.tensorrt.b1.engine"
    assert set(gpu) == {"name", "capability", "driver"}
    assert targets == []


def test_kernel_timings_are_kept_in_a_file(tmp_path: Path, driver: Path) -> None:
    options = f"{{'timing_cache': Path({str(tmp_path / 'timings.bin')!r})}}"
    for _ in range(2):
        *_, kept = json.loads(build(tmp_path, driver, options=options))
        assert kept["timing_cache"] is True
        assert (tmp_path / "timings.bin").stat().st_size > 0


@pytest.mark.parametrize("place", ["folder", "net.onnx/timings.bin"])
def test_timings_that_cannot_be_kept_are_found_before_the_build(
    tmp_path: Path, driver: Path, place: str
) -> None:
    (tmp_path / "folder").mkdir()
    told = build(tmp_path, driver, options=f"{{'timing_cache': Path({str(tmp_path / place)!r})}}")
    assert f"Cannot write {tmp_path / place}" in told
    assert list((tmp_path / "engines").iterdir()) == []


def test_timings_of_another_kind_are_left_out(tmp_path: Path, driver: Path) -> None:
    (tmp_path / "timings.bin").write_bytes(b"something else")
    options = f"{{'timing_cache': Path({str(tmp_path / 'timings.bin')!r})}}"
    assert "error" not in build(tmp_path, driver, options=options)


def test_a_dla_that_is_not_there_is_told(tmp_path: Path, driver: Path) -> None:
    told = build(tmp_path, driver, options="{'dla': 0}")
    assert "net.onnx is fp32, and a DLA computes in fp16 or int8" in told


@pytest.mark.parametrize("version", ["8.6.1", "10.2.0", "12.0.0"])
def test_a_release_that_is_not_supported_is_told(
    tmp_path: Path, driver: Path, version: str
) -> None:
    told = build(tmp_path, driver, version)
    assert f"tensorrt {version} is installed, and versions from 10.3 to below 12" in told


def test_without_a_driver_nothing_is_built(tmp_path: Path) -> None:
    told = build(tmp_path, broken_driver(tmp_path))
    assert told.startswith("error: ")
    assert "driver" in told
    assert not (tmp_path / "engines").exists()
