"""Running an engine: the device layer and what is refused before TensorRT would fail.

There is no GPU, so TensorRT's runtime is a stand-in; memory, copies, streams, events and graphs
are the real cuda-python's, on the host-memory CUDA driver.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_files import RECORD, write_engine
from host_cuda import build_driver, run_python
from tiny_onnx import write_tiny_net

from dmcp_deploy.artifact import digest_file, digest_files
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.runtimes.engine_checks import check_onnx_unchanged, check_version
from dmcp_deploy.runtimes.tensorrt import EngineSession

pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")

START = """
import os, sys
os.environ.setdefault("DMCP_CUDA_CAPABILITY", "86")  # a GPU that RTX supports
import fake_tensorrt
sys.modules["tensorrt_rtx"] = sys.modules["tensorrt"] = fake_tensorrt.module()
import numpy as np
from pathlib import Path
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.runtimes.tensorrt import EngineSession
from host_cuda import left_behind
path = Path({path!r})
try:
"""
END = """
except DmcpError as err:
    print("error:", err)
print(left_behind())
"""


@pytest.fixture(scope="module")
def driver() -> Path:
    return build_driver()


def run(driver: Path, path: Path, code: str) -> str:
    body = "".join(f"    {line}\n" for line in code.strip().splitlines())
    return run_python(START.format(path=str(path)) + body + END, driver)


def portable(folder: Path, content: bytes = b"vtrt", **changes: object) -> Path:
    return write_engine(folder, content, targets=(), **changes)[0]


def test_an_engine_runs_on_its_device_and_leaves_nothing_behind(
    tmp_path: Path, driver: Path
) -> None:
    code = """
with EngineSession(path) as session:
    for batch in (1, 4, 1, 3):
        images = np.random.default_rng(batch).standard_normal((batch, 3, 16, 16)).astype("float32")
        logits = session.run(images)
        assert logits.shape == (batch, 3) and logits.dtype == np.float32
        error = np.abs(logits - images.mean(axis=(2, 3))).max()
        assert error <= 1e-6 * np.abs(images).max()  # eight roundings of the pixels' size
    print(session.input_shape)
"""
    path = portable(tmp_path, batches=(1, 4, 8))
    assert run(driver, path, code).splitlines() == ["(None, 3, 16, 16)", "{}"]


def test_logits_are_the_callers_own(tmp_path: Path, driver: Path) -> None:
    code = """
with EngineSession(path) as session:
    ones = session.run(np.ones((1, 3, 16, 16), np.float32))
    session.run(np.zeros((1, 3, 16, 16), np.float32))
print(ones.tolist())
"""
    assert run(driver, portable(tmp_path), code).splitlines()[0] == "[[1.0, 1.0, 1.0]]"


def test_a_run_can_be_captured_as_a_graph_and_timed(tmp_path: Path, driver: Path) -> None:
    code = """
with EngineSession(path) as session:
    session.run(np.ones((1, 3, 16, 16), np.float32))
    enqueue, device = session.prepare(1), session.device
    graph = device.capture(enqueue)
    start, end = device.event(), device.event()
    device.record(start); graph.launch(); device.record(end)
    assert device.elapsed_ms(start, end) >= 0
"""
    assert run(driver, portable(tmp_path), code) == "{}\n"


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 3, 8, 8), (0, 3, 16, 16)])
def test_images_of_another_shape_are_refused(
    tmp_path: Path, driver: Path, shape: tuple[int, ...]
) -> None:
    code = f"""
with EngineSession(path) as session:
    session.run(np.zeros({shape}, np.float32))
"""
    told = run(driver, portable(tmp_path), code)
    assert f"takes 1 to 1 images of [3, 16, 16], and was given {list(shape)}" in told
    assert told.endswith("{}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"broken", "tensorrt-rtx 1.7.1.116 cannot load"),
        (b"fails", "cannot run on"),
    ],
)
def test_what_tensorrt_does_not_raise_becomes_a_sentence(
    tmp_path: Path, driver: Path, content: bytes, message: str
) -> None:
    code = """
with EngineSession(path) as session:
    session.run(np.zeros((1, 3, 16, 16), np.float32))
"""
    told = run(driver, portable(tmp_path, content), code)
    assert message in told
    assert told.endswith("{}\n")


def test_a_failure_tells_what_tensorrt_logged_and_nothing_older(
    tmp_path: Path, driver: Path
) -> None:
    code = """
from dmcp_deploy.runtimes.trt_flavours import load_flavour
logger = load_flavour("tensorrt-rtx").log.logger
logger.log("Severity.ERROR", "long ago")
with EngineSession(path) as session:
    for number in range(1000):
        logger.log("Severity.VERBOSE", "chatter")
        logger.log("Severity.INFO", "chatter")
    logger.log("Severity.ERROR", "no kernel image")
    assert len(load_flavour("tensorrt-rtx").log._latest) == 100
    session.run(np.zeros((1, 3, 16, 16), np.float32))
"""
    told = run(driver, portable(tmp_path, b"fails"), code)
    assert "cannot run on" in told
    assert "(no kernel image)" in told
    assert "long ago" not in told
    assert told.endswith("{}\n")


def test_a_folder_named_as_tensorrt_is_none(tmp_path: Path, driver: Path) -> None:
    code = f"""
from dmcp_deploy.runtimes.trt_flavours import load_flavour
del sys.modules["tensorrt"]
sys.path.insert(0, {str(tmp_path)!r})
load_flavour("tensorrt")
"""
    (tmp_path / "tensorrt").mkdir()
    assert "tensorrt is installed and cannot be loaded" in run(driver, portable(tmp_path), code)


def test_an_engine_for_other_gpus_is_refused(tmp_path: Path, driver: Path) -> None:
    path, _ = write_engine(tmp_path, targets=("sm120", "sm121"))
    told = run(driver, path, "EngineSession(path)")
    assert "was built for sm120, sm121, and" in told
    assert "is sm86: build it with --gpu-arch sm86" in told


@pytest.mark.parametrize("capability", ["87", "90"])
def test_a_gpu_that_rtx_does_not_support_is_told_what_does(
    tmp_path: Path, driver: Path, capability: str
) -> None:
    code = f"""
os.environ["DMCP_CUDA_CAPABILITY"] = "{capability}"
EngineSession(path)
"""
    told = run(driver, portable(tmp_path), code)
    assert f"is sm{capability}: build the engine there with --runtime tensorrt" in told


def test_a_portable_engine_is_none_for_turing(tmp_path: Path, driver: Path) -> None:
    code = """
os.environ["DMCP_CUDA_CAPABILITY"] = "75"
EngineSession(path)
"""
    told = run(driver, portable(tmp_path), code)
    assert "was built for Ampere and newer" in told
    assert "--gpu-arch sm75" in told


def test_an_engine_built_on_another_gpu_is_refused(tmp_path: Path, driver: Path) -> None:
    gpu = {"name": "Orin", "capability": "8.7", "driver": "540.4"}
    path, _ = write_engine(
        tmp_path, runtime="tensorrt", gpu=gpu, targets=(), runtime_version="1.7.1.116"
    )
    code = """
import fake_tensorrt; sys.modules["tensorrt"].__version__ = "10.3.0"
EngineSession(path)
"""
    told = run(driver, path, code)
    assert "was built by tensorrt 1.7.1.116, and 10.3.0 is installed here" in told
    path, _ = write_engine(
        tmp_path, runtime="tensorrt", gpu=gpu, targets=(), runtime_version="10.3.0"
    )
    assert "was built on Orin, and this is" in run(driver, path, code)


def test_the_layers_of_an_engine_with_open_shapes_are_read_at_its_best_shape(
    tmp_path: Path, driver: Path
) -> None:
    code = """
from dmcp_deploy.export.engine_layers import layers_of_inspector
from dmcp_deploy.runtimes.tensorrt import inspect_engine
from dmcp_deploy.runtimes.trt_flavours import load_flavour
print(layers_of_inspector(inspect_engine(load_flavour("tensorrt-rtx"), b"vtrt", []))[0].precision)
"""
    assert run(driver, portable(tmp_path), code).splitlines()[0] == "fp16"


def test_a_machine_without_a_driver_is_told_in_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    import tensorrt_rtx

    path = portable(tmp_path, runtime_version=tensorrt_rtx.__version__)
    with pytest.raises(DmcpError, match="driver"):
        EngineSession(path)


def test_an_engine_of_a_changed_onnx_file_is_refused(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    path = portable(tmp_path, onnx_digest=digest_file(source))
    write_tiny_net(source, width=9)
    with pytest.raises(DmcpError, match=r"net\.onnx has changed since .* was built from it"):
        EngineSession(path)


def test_weights_in_another_file_belong_to_the_onnx_file(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"graph")
    (tmp_path / "net.data").write_bytes(b"weights")
    digest = digest_files([tmp_path / "net.onnx", tmp_path / "net.data"])
    path, record = write_engine(tmp_path, onnx_digest=digest, onnx_weights=("net.data",))
    check_onnx_unchanged(path, record)
    (tmp_path / "net.data").write_bytes(b"others")
    with pytest.raises(DmcpError, match=r"net\.onnx has changed since"):
        check_onnx_unchanged(path, record)


def test_another_network_of_the_same_name_above_the_right_one_is_no_change(
    tmp_path: Path,
) -> None:
    (tmp_path / "engines").mkdir()
    source = write_tiny_net(tmp_path / "engines/net.onnx").path
    write_tiny_net(tmp_path / "net.onnx", width=9)
    path, record = write_engine(tmp_path / "engines", onnx_digest=digest_file(source))
    check_onnx_unchanged(path, record)
    source.unlink()
    with pytest.raises(DmcpError, match=r"net\.onnx has changed since"):
        check_onnx_unchanged(path, record)


def test_another_version_is_refused() -> None:
    with pytest.raises(DmcpError, match=r"tensorrt-rtx 1\.7\.1\.116, and 1\.8 is installed here"):
        check_version(Path("x.engine"), RECORD, "1.8")
