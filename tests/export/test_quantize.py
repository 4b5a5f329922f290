from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from old_processor import words_before_command
from onnx import TensorProto, helper, numpy_helper
from rtx_child import rtx_layer_types
from tiny_onnx import change_model, save_graph, write_mixed_net

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.lower_precision import to_half
from dmcp_deploy.export.quantize import quantize_fp8, quantize_int8
from dmcp_deploy.export.verify import compare_outputs, require_fidelity
from dmcp_deploy.onnxgraph.file import inspect_onnx
from dmcp_deploy.runtimes.onnxruntime import OnnxSession

IMAGES = np.random.default_rng(0).standard_normal((36, 3, 16, 16), dtype=np.float32)
#: Of the net with 2 convolutions and a linear layer.
WEIGHTED = 3


def logits(path: Path, images: np.ndarray = IMAGES) -> np.ndarray:
    with OnnxSession(path, 1, exact=True) as session:
        return session.run(images)


def batched_logits(path: Path, size: int) -> np.ndarray:
    with OnnxSession(path, 1, exact=True) as session:
        return np.concatenate([session.run(part) for part in np.split(IMAGES, len(IMAGES) // size)])


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_model(path).graph.node)


@pytest.mark.parametrize("preset", ["tensorrt", "cpu"])
@pytest.mark.parametrize("batch", ["batch", 1, 12])
def test_a_network_in_int8_computes_nearly_what_it_did_in_fp32(tmp_path, preset, batch):
    source = write_mixed_net(tmp_path / "net.onnx", batch=batch)
    report = quantize_int8(source, tmp_path / "int8.onnx", IMAGES, preset)
    size = batch if isinstance(batch, int) else 12
    parity = compare_outputs(batched_logits(source, size), batched_logits(report.path, size))
    require_fidelity(parity, "int8", "the int8 and the fp32 network")
    assert 20 < parity.snr_db < 50
    inspected = inspect_onnx(report.path)
    assert (inspected.precision, inspected.batch) == (
        "int8",
        batch if isinstance(batch, int) else None,
    )
    assert (len(report.quantized), report.kept) == (WEIGHTED, ())
    assert (report.calibration_images, report.method) == (36, "minmax")
    assert report.digest == digest_file(report.path)


@pytest.mark.slow
def test_int8_is_right_without_vnni_if_judged_exactly_or_made_for_cpus(tmp_path):
    command = (*words_before_command(), sys.executable, "-c", RUN_BOTH_WAYS, tmp_path)
    source = write_mixed_net(tmp_path / "net.onnx")
    np.save(tmp_path / "images.npy", IMAGES)
    for preset in ("tensorrt", "cpu"):
        quantize_int8(source, tmp_path / f"{preset}.onnx", IMAGES, preset)
    root = str(Path(__file__).parents[2])
    subprocess.run(command, env={"PYTHONPATH": root}, capture_output=True, check=True)
    snr_db = {}
    for preset in ("tensorrt", "cpu"):
        here = logits(tmp_path / f"{preset}.onnx")
        for way in ("usual", "exact"):
            there = np.load(tmp_path / f"{preset}-{way}.npy")
            snr_db[preset, way] = compare_outputs(here, there).snr_db
    # 13 dB were seen: if the usual kernels lose nothing, this is not the processor that is meant.
    assert snr_db.pop(("tensorrt", "usual")) < 20
    # Equal integers leave the rounding of FP32, and steps of INT8 here and there for its sake.
    assert min(snr_db.values()) > 60, snr_db


RUN_BOTH_WAYS = """
import sys; from pathlib import Path
import numpy
from dmcp_deploy.runtimes.onnxruntime import OnnxSession
folder = Path(sys.argv[1])
images = numpy.load(folder / "images.npy")
for preset in ("tensorrt", "cpu"):
    for way in ("usual", "exact"):
        with OnnxSession(folder / f"{preset}.onnx", 1, exact=way == "exact") as session:
            numpy.save(folder / f"{preset}-{way}.npy", session.run(images))
"""


def test_tensorrt_gets_signed_symmetric_inputs_of_weighted_operators_alone(tmp_path):
    source = write_mixed_net(tmp_path / "net.onnx")
    report = quantize_int8(source, tmp_path / "int8.onnx", IMAGES, "tensorrt")
    model = onnx.load_model(report.path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    # Weights are stored quantised: they have no QuantizeLinear.
    assert operators(report.path)["QuantizeLinear"] == WEIGHTED
    assert operators(report.path)["DequantizeLinear"] == 2 * WEIGHTED
    readers = {(name, node.op_type) for node in model.graph.node for name in node.input}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = tensors[node.input[2]]
            assert zero.data_type == TensorProto.INT8
            assert not numpy_helper.to_array(zero).any()
        if node.op_type == "DequantizeLinear":
            assert {(node.output[0], "Conv"), (node.output[0], "Gemm")} & readers
    assert tensors["conv_bias"].data_type == TensorProto.FLOAT
    # One scale per output channel.
    assert tensors["depthwise_scale"].dims == [8]
    assert tensors["linear_scale"].dims == [5]


def test_the_cpu_gets_unsigned_activations_weights_of_7_bits_and_quantised_biases(tmp_path):
    source = write_mixed_net(tmp_path / "net.onnx")
    report = quantize_int8(source, tmp_path / "int8.onnx", IMAGES, "cpu")
    tensors = {tensor.name: tensor for tensor in onnx.load_model(report.path).graph.initializer}
    types = {tensor.data_type for tensor in tensors.values()}
    assert {TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32} <= types
    assert tensors["depthwise_scale"].dims == [8]
    assert np.abs(numpy_helper.to_array(tensors["conv_quantized"])).max() == 64
    assert operators(report.path)["QuantizeLinear"] > WEIGHTED


def test_presets_are_told_apart_and_metadata_survives(tmp_path):
    source = write_mixed_net(tmp_path / "net.onnx", metadata={"model": "mixed"})
    assert inspect_onnx(source).preset is None
    for preset in ("tensorrt", "cpu"):
        report = quantize_int8(source, tmp_path / f"{preset}.onnx", IMAGES, preset)
        assert report.preset == inspect_onnx(report.path).preset == preset
        props = {item.key: item.value for item in onnx.load_model(report.path).metadata_props}
        assert props == {"model": "mixed", "dmcp_deploy.quantization": preset}


@pytest.mark.parametrize("method", ["percentile", "entropy"])
@pytest.mark.parametrize("count", [36, 35])
def test_other_calibration_methods_find_other_ranges(tmp_path, method, count):
    source = write_mixed_net(tmp_path / "net.onnx")
    images = IMAGES[:count]
    images = np.where(np.arange(count)[:, None, None, None] == 0, images * 3, images)
    plain = quantize_int8(source, tmp_path / "minmax.onnx", images)
    other = quantize_int8(source, tmp_path / f"{method}.onnx", images, method=method)
    assert (plain.method, other.method) == ("minmax", method)
    # Entropy finds the whole range as well where the values are spread as here.
    assert (plain.digest != other.digest) == (method == "percentile")
    parity = compare_outputs(logits(source), logits(other.path))
    require_fidelity(parity, "int8", "the int8 and the fp32 network")


def test_fp8_is_computed_as_onnx_defines_it(tmp_path):
    # ONNX Runtime has no FP8 convolution on a CPU; ONNX's own evaluator has what it takes.
    from onnx.reference import ReferenceEvaluator

    source = write_mixed_net(tmp_path / "net.onnx", metadata={"model": "mixed"})
    try:
        report = quantize_fp8(source, tmp_path / "fp8.onnx", IMAGES)
    except DmcpError as err:
        if "which does not fit onnx" not in str(err) or (tmp_path / "fp8.onnx").exists():
            raise
        pytest.skip(str(err))
    assert inspect_onnx(report.path).precision == "fp8"
    assert (report.precision, report.preset, report.method) == ("fp8", "tensorrt", "distribution")
    assert (len(report.quantized), inspect_onnx(report.path).preset) == (WEIGHTED, "tensorrt")
    found = ReferenceEvaluator(str(report.path)).run(None, {"input": IMAGES[:8]})[0]
    assert 20 < compare_outputs(logits(source, IMAGES[:8]), found).snr_db < 50


def test_the_product_of_two_activations_stays_fp32(tmp_path):
    nodes = [
        helper.make_node("Conv", ["input", "conv"], ["maps"]),
        helper.make_node("Transpose", ["maps"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["maps", "turned"], ["logits"], name="product"),
    ]
    ends = {"inputs": {"input": ["n", 3, 16, 16]}, "outputs": {"logits": ["n", 4, 16, 16]}}
    conv = np.random.default_rng(0).standard_normal((4, 3, 1, 1), dtype=np.float32)
    save_graph(tmp_path / "net.onnx", nodes, **ends, weights={"conv": conv})
    report = quantize_int8(tmp_path / "net.onnx", tmp_path / "int8.onnx", IMAGES, "tensorrt")
    assert (report.quantized, report.kept) == (("Conv:maps",), ("product",))


def test_it_is_quiet_and_leaves_nothing_behind(tmp_path, monkeypatch, capfd):
    (tmp_path / "temporary").mkdir()
    (tmp_path / "source").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "temporary")
    source = write_mixed_net(tmp_path / "source" / "net.onnx")
    before = source.read_bytes()
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    quantize_int8(source, tmp_path / "made" / "int8.onnx", IMAGES)
    quantize_int8(source, tmp_path / "made" / "entropy.onnx", IMAGES, method="entropy")
    assert capfd.readouterr() == ("", "")
    assert (logging.root.handlers, logging.root.manager.disable) == (handlers, disabled)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"source/net.onnx", "made/int8.onnx", "made/entropy.onnx"}
    assert source.read_bytes() == before


def test_a_process_without_log_handlers_has_none_afterwards(tmp_path):
    source = write_mixed_net(tmp_path / "net.onnx")
    np.save(tmp_path / "images.npy", IMAGES)
    code = (
        "import logging, sys, numpy; from pathlib import Path;"
        "from dmcp_deploy.export.quantize import quantize_int8;"
        "folder = Path(sys.argv[1]); images = numpy.load(folder / 'images.npy');"
        "report = quantize_int8(folder / 'net.onnx', folder / 'again.onnx', images);"
        "assert not logging.root.handlers;"
        # Older releases of ONNX Runtime import it themselves where it is installed.
        "own = 'onnxruntime.tools.pytorch_export_helpers' not in sys.modules;"
        "assert not (own and 'torch' in sys.modules);"
        "print(report.digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = quantize_int8(source, tmp_path / "int8.onnx", IMAGES)
    assert done.stdout.strip() == report.digest


def refused(source: Path, text: str, images: np.ndarray = IMAGES, **choice: str) -> None:
    path = source.with_name("refused.onnx")
    with pytest.raises(DmcpError, match=text):
        quantize_int8(source, path, images, **choice)
    assert not path.exists()


def test_requests_that_cannot_be_met_are_refused(tmp_path):
    source = write_mixed_net(tmp_path / "net.onnx")
    refused(source, "There are 31 calibration images, and 32 are the fewest", IMAGES[:31])
    refused(source, r"takes float32 images \[N, 3, 16, 16\]", IMAGES[:, :, :8])
    refused(source, "NaN or infinite", np.full_like(IMAGES, np.inf))
    refused(source, "preset is 'gpu' and must be one of tensorrt, cpu", preset="gpu")
    refused(source, "method is 'mean' and must be one of minmax, percentile", method="mean")
    with pytest.raises(DmcpError, match="There are 0 calibration images"):
        quantize_fp8(source, tmp_path / "fp8.onnx", IMAGES[:0])


def test_sources_that_cannot_be_quantised_are_refused(tmp_path):
    source = write_mixed_net(tmp_path / "net.onnx")
    quantize_int8(source, tmp_path / "int8.onnx", IMAGES)
    to_half(source, tmp_path / "fp16.onnx", "fp16")
    refused(tmp_path / "none.onnx", "There is no ONNX file")
    refused(tmp_path / "int8.onnx", "int8.onnx is int8 already: give the fp32 file")
    refused(tmp_path / "fp16.onnx", "fp16.onnx is fp16 already")
    with pytest.raises(DmcpError, match="is int8 already"):
        to_half(tmp_path / "int8.onnx", tmp_path / "half.onnx", "fp16")
    write_plain(tmp_path / "old.onnx")
    refused(tmp_path / "old.onnx", "has opset 12, and scales per channel need 13")


def write_plain(path: Path) -> None:
    ends = {"inputs": {"input": ["n", 3, 16, 16]}, "outputs": {"logits": ["n", 4, 16, 16]}}
    conv = {"conv": np.ones((4, 3, 1, 1), np.float32)}
    save_graph(
        path, [helper.make_node("Conv", ["input", "conv"], ["logits"])], **ends, weights=conv
    )
    change_model(path, opset=12)


@pytest.mark.slow
def test_tensorrt_rtx_builds_every_precision(tmp_path):
    source = write_mixed_net(tmp_path / "net.onnx")
    to_half(source, tmp_path / "fp16.onnx", "fp16")
    to_half(source, tmp_path / "bf16.onnx", "bf16")
    quantize_int8(source, tmp_path / "int8.onnx", IMAGES, "tensorrt")
    quantize_fp8(source, tmp_path / "fp8.onnx", IMAGES)
    types = {
        name: rtx_layer_types(tmp_path / f"{name}.onnx") for name in ("fp16", "bf16", "int8", "fp8")
    }
    assert "Half" in types["fp16"]
    assert "BFloat16" in types["bf16"]
    assert "Int8" in types["int8"]
    assert "FP8" in types["fp8"]
    assert not {"Half", "BFloat16", "Int8", "FP8"} & rtx_layer_types(source)
    quantize_int8(source, tmp_path / "cpu.onnx", IMAGES, "cpu")
    with pytest.raises(AssertionError, match="type Int32"):
        rtx_layer_types(tmp_path / "cpu.onnx")
