from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_onnx import change_model, save_graph, write_mixed_net, write_tiny_net

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.lower_precision import to_half
from dmcp_deploy.onnxgraph.file import HIGHEST_OPSET, LOWEST_OPSET, OnnxFile, inspect_onnx


def refused(path: Path, text: str) -> None:
    with pytest.raises(DmcpError, match=text) as caught:
        inspect_onnx(path)
    message = str(caught.value)
    assert str(path) in message
    assert message[-1] in ".?"
    assert "\n" not in message


def write_ends(path: Path, inputs: list, outputs: list, *, nodes: list | None = None) -> Path:
    """Writes a net whose inputs and outputs are given as (name, type, shape), unchecked."""
    values = [[helper.make_tensor_value_info(*end) for end in ends] for ends in (inputs, outputs)]
    nodes = [helper.make_node("Relu", ["a"], ["y"])] if nodes is None else nodes
    graph = helper.make_graph(nodes, "ends", *values)
    opsets = [helper.make_opsetid("", 20)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


IMAGE = ("a", TensorProto.FLOAT, ["n", 3, 8, 8])
RESULT = ("y", TensorProto.FLOAT, ["n", 3, 8, 8])


def test_a_sound_file_tells_what_it_holds(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx")
    assert inspect_onnx(net.path) == OnnxFile(
        path=net.path,
        digest=digest_file(net.path),
        opset=20,
        input_name="input",
        input_shape=(None, 3, 16, 16),
        output_name="logits",
        precision="fp32",
    )


def test_axes_are_fixed_or_open(tmp_path):
    fixed = inspect_onnx(write_tiny_net(tmp_path / "fixed.onnx", batch=4, size=8).path)
    assert (fixed.batch, fixed.input_shape) == (4, (4, 3, 8, 8))
    any_size = inspect_onnx(write_tiny_net(tmp_path / "any.onnx", size="side").path)
    assert (any_size.batch, any_size.input_shape) == (None, (None, 3, None, None))
    # 0 is how some exporters say that an axis is open.
    zero = write_ends(tmp_path / "zero.onnx", [("a", TensorProto.FLOAT, [0, 3, 8, 8])], [RESULT])
    assert inspect_onnx(zero).batch is None


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_precision_is_that_of_the_weights(tmp_path, precision):
    source = write_mixed_net(tmp_path / "net.onnx")
    to_half(source, tmp_path / "half.onnx", precision)
    assert inspect_onnx(tmp_path / "half.onnx").precision == precision


@pytest.mark.parametrize(
    ("kind", "precision"),
    [(TensorProto.INT8, "int8"), (TensorProto.UINT8, "int8"), (TensorProto.FLOAT8E4M3FN, "fp8")],
)
def test_the_precision_is_that_of_quantising_operators(tmp_path, kind, precision):
    inspected = inspect_onnx(write_quantized(tmp_path / "net.onnx", kind))
    assert inspected.precision == precision


def test_a_network_without_weights_is_fp32(tmp_path):
    assert inspect_onnx(write_ends(tmp_path / "net.onnx", [IMAGE], [RESULT])).precision == "fp32"


def test_weights_that_are_listed_as_inputs_are_no_inputs(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx")
    model = onnx.load_model(net.path)
    shape = list(net.linear.shape)
    weight = helper.make_tensor_value_info("linear", TensorProto.FLOAT, shape)
    model.graph.input.insert(0, weight)
    onnx.save_model(model, net.path)
    assert inspect_onnx(net.path).input_name == "input"


def test_a_file_that_is_absent_empty_or_garbage_is_refused(tmp_path):
    path = tmp_path / "net.onnx"
    refused(path, "There is no ONNX file")
    refused(tmp_path, "There is no ONNX file")
    path.write_bytes(b"")
    refused(path, "is empty: copy or export it again")
    path.write_bytes(b"garbage")
    refused(path, r"no ONNX file, or a part of one \(7 bytes\)")
    # What a protocol buffer takes for unknown fields.
    path.write_bytes(b"\x08\x0a" * 50)
    refused(path, "names no version of the standard operators")


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = write_mixed_net(tmp_path / "net.onnx")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, "no ONNX file, or a part of one")


def test_an_opset_that_tensorrt_does_not_know_is_refused(tmp_path):
    path = write_ends(tmp_path / "net.onnx", [IMAGE], [RESULT])
    for opset in (LOWEST_OPSET, HIGHEST_OPSET):
        change_model(path, opset=opset)
        assert inspect_onnx(path).opset == opset
    for opset in (LOWEST_OPSET - 1, HIGHEST_OPSET + 1, 99):
        change_model(path, opset=opset)
        refused(path, f"has opset {opset}, and TensorRT takes 9 to 24")


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ([IMAGE, ("b", TensorProto.INT64, [2])], r"takes a float \[n, 3, 8, 8\], b int64 \[2\]"),
        ([("a", TensorProto.DOUBLE, ["n", 3, 8, 8])], "takes a double"),
        ([("a", TensorProto.FLOAT16, ["n", 3, 8, 8])], "takes a float16"),
        ([("a", TensorProto.FLOAT, ["n", 3])], r"takes a float \[n, 3\]"),
        ([], "takes nothing"),
    ],
)
def test_other_inputs_are_refused(tmp_path, inputs, found):
    refused(write_ends(tmp_path / "net.onnx", inputs, [RESULT]), found)


def test_other_outputs_are_refused(tmp_path):
    double = ("y", TensorProto.DOUBLE, ["n", 3, 8, 8])
    refused(
        write_ends(tmp_path / "net.onnx", [IMAGE], [double]), r"returns y double \[n, 3, 8, 8\]"
    )
    refused(write_ends(tmp_path / "net.onnx", [IMAGE], []), "has 0 outputs")
    refused(write_ends(tmp_path / "net.onnx", [IMAGE], [RESULT], nodes=[]), "has 0 operators")


def test_a_graph_that_breaks_the_standard_is_refused(tmp_path):
    unknown = [helper.make_node("Reluu", ["a"], ["y"])]
    path = write_ends(tmp_path / "net.onnx", [IMAGE], [RESULT], nodes=unknown)
    refused(path, "fails ONNX's own check .*Reluu")
    unsorted = [helper.make_node("Relu", ["b"], ["y"]), helper.make_node("Relu", ["a"], ["b"])]
    path = write_ends(tmp_path / "net.onnx", [IMAGE], [RESULT], nodes=unsorted)
    refused(path, "fails ONNX's own check .*sorted")
    contradicting = ("y", TensorProto.FLOAT, ["n", 4, 8, 8])
    path = write_ends(tmp_path / "net.onnx", [IMAGE], [contradicting])
    refused(path, "fails ONNX's own check .*4")


def test_a_custom_operator_is_left_to_the_runtime(tmp_path):
    path = tmp_path / "net.onnx"
    mine = [helper.make_node("Mine", ["a"], ["y"], domain="mine")]
    write_ends(path, [IMAGE], [RESULT], nodes=mine)
    model = onnx.load_model(path)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    onnx.save_model(model, path)
    assert inspect_onnx(path).output_name == "y"


def test_external_weights_are_checked_and_part_of_the_digest(tmp_path):
    path, weights = tmp_path / "net.onnx", tmp_path / "weights.bin"
    model = onnx.load_model(write_mixed_net(path))
    onnx.save_model(
        model, path, save_as_external_data=True, location=weights.name, size_threshold=64
    )
    first = inspect_onnx(path)
    assert first.precision == "fp32"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert inspect_onnx(path).digest != first.digest
    weights.write_bytes(content[:-4])
    refused(path, rf"weights.bin, which has {len(content) - 4} of {len(content)} bytes: copy both")
    weights.unlink()
    refused(path, r"keeps its weights in weights.bin, which is missing: copy both files")


def test_weights_in_double_are_refused(tmp_path):
    nodes = [
        helper.make_node("Cast", ["input"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Conv", ["wide", "conv"], ["maps"]),
        helper.make_node("Cast", ["maps"], ["logits"], to=TensorProto.FLOAT),
    ]
    ends = {"inputs": {"input": [1, 3, 8, 8]}, "outputs": {"logits": [1, 2, 8, 8]}}
    save_graph(tmp_path / "net.onnx", nodes, **ends, weights={"conv": np.ones((2, 3, 1, 1))})
    refused(
        tmp_path / "net.onnx", "has weights of type double, and a network here is of one of fp32"
    )


def test_a_type_of_quantisation_that_is_no_precision_here_is_refused(tmp_path):
    path = write_quantized(tmp_path / "net.onnx", TensorProto.INT16)
    refused(path, "is quantised to int16, and a network here is of one of")


def write_quantized(path: Path, kind: int) -> Path:
    zero = helper.make_tensor("zero", kind, [], [0])
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1])
    nodes = [
        helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    write_ends(path, [IMAGE], [RESULT], nodes=nodes)
    model = onnx.load_model(path)
    model.opset_import[0].version = 21
    model.graph.initializer.extend([zero, scale])
    onnx.save_model(model, path)
    return path
