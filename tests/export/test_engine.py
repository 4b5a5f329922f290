"""Engines that TensorRT-RTX really builds, on a machine without a GPU."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_onnx import save_graph, write_tiny_net

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.engine import EngineOptions, Origin, build_engine
from dmcp_deploy.export.lower_precision import to_half
from dmcp_deploy.export.quantize import quantize_int8
from dmcp_deploy.runtimes.engine_checks import check_onnx_unchanged
from dmcp_deploy.runtimes.engine_record import EngineRecord, sidecar_path

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed on this platform")

RTX = EngineOptions("tensorrt-rtx", gpu_archs=("sm86",))
ORIGIN = Origin(macs=6184, params=64, plan_digest="sha256:plan")


def images(count: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, 3, side, side), dtype=np.float32)


def in_precision(folder: Path, precision: str) -> Path:
    """Returns the tiny network's ONNX file in a precision."""
    source = write_tiny_net(folder / "net.onnx", width=64).path
    path = folder / f"net.{precision}.onnx"
    if precision == "fp32":
        return source
    if precision == "int8":
        quantize_int8(source, path, images(32), "tensorrt")
    else:
        to_half(source, path, precision)
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_the_engine_has_the_precision_of_its_file(tmp_path: Path, precision: str) -> None:
    source = in_precision(tmp_path, precision)
    path, record = build_engine(source, tmp_path / "engines", RTX, ORIGIN)
    assert path == tmp_path / "engines" / f"net.{precision}.tensorrt-rtx.b1.sm86.engine"
    assert path.read_bytes()[:4] == b"vtrt"
    assert record.precision == precision
    assert record.layer_precisions[precision] >= 1
    if precision == "fp32":
        assert set(record.layer_precisions) == {"fp32"}


def test_the_sidecar_tells_what_the_engine_was_built_from_and_for(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    path, record = build_engine(source, tmp_path, RTX, ORIGIN)
    assert EngineRecord.load(path) == record
    assert record.engine_digest == digest_file(path)
    assert record.onnx_digest == digest_file(source)
    assert (record.macs, record.params, record.plan_digest) == (6184, 64, "sha256:plan")
    assert record.targets == ("sm86",)
    assert record.gpu is None
    assert record.input_shape == (3, 16, 16)
    assert record.batches == (1, 1, 1)
    assert record.engine_bytes == path.stat().st_size
    # 8x3 and 5x8 weights in FP32, and what the runtime adds to them.
    assert record.weight_bytes is not None
    assert record.weight_bytes >= 4 * (24 + 40)


def test_weights_in_another_file_belong_to_the_engine(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx", width=64).path
    model = onnx.load(source)
    onnx.save(model, source, save_as_external_data=True, location="net.data", size_threshold=0)
    path, record = build_engine(source, tmp_path / "engines", RTX, ORIGIN)
    assert record.onnx_weights == ("net.data",)
    check_onnx_unchanged(path, record)
    (tmp_path / "net.data").write_bytes(bytes((tmp_path / "net.data").stat().st_size))
    with pytest.raises(DmcpError, match=r"net\.onnx has changed since"):
        check_onnx_unchanged(path, record)


def test_a_wider_network_has_more_weight_bytes(tmp_path: Path) -> None:
    built = []
    for width in (64, 128):
        source = write_tiny_net(tmp_path / f"net{width}.onnx", width=width).path
        built.append(build_engine(source, tmp_path, RTX, ORIGIN)[1].weight_bytes)
    assert built[1] > built[0]


def test_every_batch_has_an_engine_of_its_own_and_a_range_has_one(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    names = set()
    for batches in ((1, 1, 1), (8, 8, 8), (1, 4, 8)):
        path, record = build_engine(
            source, tmp_path, EngineOptions("tensorrt-rtx", batches), ORIGIN
        )
        assert record.batches == batches
        names.add(path.name)
    assert names == {
        "net.fp32.tensorrt-rtx.b1.engine",
        "net.fp32.tensorrt-rtx.b8.engine",
        "net.fp32.tensorrt-rtx.b1-4-8.engine",
    }


def test_an_open_batch_is_closed_in_a_static_engine(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    _, static = build_engine(source, tmp_path, EngineOptions("tensorrt-rtx", (4, 4, 4)), ORIGIN)
    fixed = write_tiny_net(tmp_path / "fixed.onnx", batch=4).path
    _, truth = build_engine(fixed, tmp_path, EngineOptions("tensorrt-rtx", (4, 4, 4)), ORIGIN)
    assert static.activation_bytes == truth.activation_bytes
    assert [layer["kind"] for layer in static.layers] == [layer["kind"] for layer in truth.layers]


@pytest.mark.parametrize("archs", [(), ("sm80", "sm89"), ("sm120",), ("sm121",)])
def test_engines_are_built_for_gpus_that_are_not_there(
    tmp_path: Path, archs: tuple[str, ...]
) -> None:
    source = in_precision(tmp_path, "fp16")
    _, record = build_engine(
        source, tmp_path, EngineOptions("tensorrt-rtx", gpu_archs=archs), ORIGIN
    )
    assert record.targets == archs
    assert "fp16" in record.layer_precisions


def test_turing_takes_fp16(tmp_path: Path) -> None:
    source = in_precision(tmp_path, "fp16")
    _, record = build_engine(
        source, tmp_path, EngineOptions("tensorrt-rtx", gpu_archs=("sm75",)), ORIGIN
    )
    assert record.targets == ("sm75",)


def test_turing_takes_no_fp32(tmp_path: Path) -> None:
    source = in_precision(tmp_path, "fp32")
    with pytest.raises(DmcpError, match=r"fp32, and tensorrt-rtx builds for Turing.*fp16"):
        build_engine(source, tmp_path, EngineOptions("tensorrt-rtx", gpu_archs=("sm75",)), ORIGIN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tensorflow"}, "--runtime 'tensorflow' is unknown.*did you mean tensorrt"),
        ({"gpu_archs": ("sm87",)}, "--gpu-arch 'sm87' is unknown: choose one of sm75, sm80"),
        ({"gpu_archs": ("sm86", "sm86")}, "--gpu-arch sm86,sm86 names one twice"),
        ({"gpu_archs": ("sm75", "sm86")}, "Turing .sm75. cannot share an engine"),
        ({"runtime": "tensorrt", "gpu_archs": ("sm86",)}, "tensorrt builds on the device itself"),
        ({"batches": (0, 1, 1)}, "The batch sizes 0, 1, 1 must be 1 or more"),
        ({"batches": (8, 4, 1)}, "The batch sizes 8, 4, 1 must be 1 or more and not fall"),
        ({"dla": 0}, "--dla 0: tensorrt-rtx builds for no DLA"),
        ({"runtime": "tensorrt", "dla": 0, "batches": (1, 2, 4)}, "--dla 0 needs a static batch"),
        ({"runtime": "tensorrt", "dla": -1}, "--dla -1 must be the number of a core"),
        ({"timing_cache": Path("x")}, "--timing-cache: tensorrt-rtx keeps none"),
        ({"optimization_level": 6}, "--optimization-level 6 must lie in 0..5"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(DmcpError, match=message):
        EngineOptions(**{"runtime": "tensorrt-rtx", **options})  # type: ignore[arg-type]


def test_a_fixed_batch_cannot_be_built_for_another(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx", batch=2).path
    with pytest.raises(DmcpError, match="has the fixed batch size 2 and cannot be built for 1"):
        build_engine(source, tmp_path, RTX, ORIGIN)


def test_a_network_quantised_for_cpus_is_refused(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    quantize_int8(source, tmp_path / "cpu.onnx", images(32), "cpu")
    with pytest.raises(DmcpError, match="was quantised for CPUs"):
        build_engine(tmp_path / "cpu.onnx", tmp_path, RTX, ORIGIN)


def test_tensorrt_that_is_not_installed_is_said_so(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    with pytest.raises(DmcpError, match="tensorrt is not installed here: it comes with JetPack"):
        build_engine(source, tmp_path, EngineOptions("tensorrt"), ORIGIN)


def odd_graph(path: Path, operator: str, domain: str = "") -> Path:
    nodes = [
        helper.make_node("Conv", ["input", "conv"], ["maps"]),
        helper.make_node("Det", ["maps"], ["odd"]),
        helper.make_node("Flatten", ["odd"], ["features"]),
        helper.make_node("Gemm", ["features", "linear"], ["logits"], transB=1),
    ]
    rng = np.random.default_rng(0)
    weights = {
        "conv": rng.standard_normal((4, 3, 1, 1), dtype=np.float32),
        "linear": rng.standard_normal((5, 4), dtype=np.float32),
    }
    save_graph(
        path,
        nodes,
        inputs={"input": [1, 3, 16, 16]},
        outputs={"logits": [1, 5]},
        weights=weights,
    )
    model = onnx.load(path)
    model.graph.node[1].op_type, model.graph.node[1].domain = operator, domain
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("operator", "domain"), [("Det", ""), ("MyOp", "my.domain")])
def test_an_unsupported_operator_is_named(tmp_path: Path, operator: str, domain: str) -> None:
    source = odd_graph(tmp_path / "odd.onnx", operator, domain)
    with pytest.raises(DmcpError, match=rf"operator {operator} .* of .*odd\.onnx"):
        build_engine(source, tmp_path, RTX, ORIGIN)
    assert not list(tmp_path.glob("*.engine*"))


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x07\x12"])
def test_what_is_no_onnx_is_refused_where_the_parser_sees_nothing_wrong(
    tmp_path: Path, content: bytes
) -> None:
    source = tmp_path / "bad.onnx"
    source.write_bytes(content)
    with pytest.raises(DmcpError, match=r"bad\.onnx"):
        build_engine(source, tmp_path, RTX, ORIGIN)
    assert not list(tmp_path.glob("*.engine*"))


def test_opsets_that_tensorrt_would_silently_accept_are_refused(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    model = onnx.load(source)
    model.opset_import[0].version = 26
    onnx.save(model, source)
    with pytest.raises(DmcpError, match="opset 26"):
        build_engine(source, tmp_path, RTX, ORIGIN)


def test_a_double_input_that_tensorrt_would_silently_narrow_is_refused(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    model = onnx.load(source)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    onnx.save(model, source)
    with pytest.raises(DmcpError, match=r"net\.onnx"):
        build_engine(source, tmp_path, RTX, ORIGIN)


def test_too_little_workspace_is_told_as_tensorrt_tells_it(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx", size=64).path
    options = EngineOptions("tensorrt-rtx", gpu_archs=("sm86",), workspace_bytes=1)
    with pytest.raises(DmcpError, match=r"cannot build an engine of .*workspace"):
        build_engine(source, tmp_path, options, ORIGIN)
    assert not list(tmp_path.glob("*.engine*"))


BUILD = """
import sys
from pathlib import Path
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.engine import EngineOptions, Origin, build_engine
options = EngineOptions("tensorrt-rtx", gpu_archs=("sm86",))
ORIGIN = Origin(macs=6184, params=64)
try:
    while True:
        build_engine(Path(sys.argv[1]), Path(sys.argv[2]), options, ORIGIN)
        print("built", flush=True)
        if len(sys.argv) > 3:
            break
except DmcpError as err:
    sys.exit(str(err))
"""


def test_a_full_disk_leaves_no_engine_behind(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(source), str(tmp_path / "engines"), "once"],
        # The engine has some 40 kB: writing stops half-way, as on a disk that is full. So would the
        # writing of compiled modules, which later tests would then fail to read.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "engines").iterdir()) == []


def test_a_build_killed_at_any_moment_leaves_whole_engines_alone(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    engines = tmp_path / "engines"
    for moment in (0.0, 0.03, 0.11):
        process = subprocess.Popen(
            [sys.executable, "-c", BUILD, str(source), str(engines)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "built\n"
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for path in engines.glob("*.engine"):
            assert path.read_bytes()[:4] == b"vtrt"
            sidecar = json.loads(sidecar_path(path).read_text())
            assert sidecar["engine_bytes"] == path.stat().st_size
