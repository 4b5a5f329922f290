from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tiny_onnx import save_graph, write_tiny_net

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.lower_precision import to_half
from dmcp_deploy.export.quantize import quantize_int8
from dmcp_deploy.onnxgraph.cost import onnx_cost
from dmcp_deploy.onnxgraph.layers import OnnxLayer, onnx_layers


def test_a_tiny_nets_layers_are_what_was_derived_by_hand(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx")
    assert onnx_layers(net.path, batch=2) == (
        OnnxLayer(
            name="conv",
            kind="conv",
            macs=2 * 16 * 16 * 8 * 3,
            params=24,
            in_channels=3,
            out_channels=8,
            groups=1,
            kernel=(1, 1),
            out_shape=(2, 8, 16, 16),
            bytes=4 * (2 * 3 * 256 + 2 * 8 * 256 + 24),
        ),
        OnnxLayer(
            name="linear",
            kind="linear",
            macs=2 * 8 * 5,
            params=40,
            in_channels=8,
            out_channels=5,
            groups=1,
            kernel=(),
            out_shape=(2, 5),
            bytes=4 * (2 * 8 + 2 * 5 + 40),
        ),
    )


def test_a_fixed_batch_is_counted_as_it_is(tmp_path):
    fixed = write_tiny_net(tmp_path / "fixed.onnx", batch=6)
    loose = write_tiny_net(tmp_path / "open.onnx")
    assert onnx_layers(fixed.path) == onnx_layers(loose.path, batch=6)


def test_a_batch_below_one_is_refused(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx")
    with pytest.raises(DmcpError, match="The batch size is 0"):
        onnx_layers(net.path, batch=0)


def _ones(*shape: int) -> np.ndarray:
    return np.ones(shape, dtype=np.float32)


def _convolutions(path: Path) -> Path:
    """Depthwise with a bias, grouped, transposed, and a product from the left."""
    nodes = [
        helper.make_node("Conv", ["x", "dw.weight", "dw.bias"], ["deep"], group=4, name="n1"),
        helper.make_node("Conv", ["deep", "grouped.weight"], ["wide"], group=2, name="n2"),
        helper.make_node("ConvTranspose", ["wide", "up.weight"], ["large"], group=3, name="n3"),
        helper.make_node("MatMul", ["left.weight", "large"], ["y"], name="n4"),
    ]
    weights = {
        "dw.weight": _ones(4, 1, 3, 3),
        "dw.bias": _ones(4),
        "grouped.weight": _ones(6, 2, 1, 1),
        "up.weight": _ones(6, 5, 2, 2),
        "left.weight": _ones(3, 7),
    }
    save_graph(
        path, nodes, inputs={"x": [1, 4, 8, 8]}, outputs={"y": [1, 15, 3, 7]}, weights=weights
    )
    return path


def test_each_kind_of_layer_tells_its_widths(tmp_path):
    found = onnx_layers(_convolutions(tmp_path / "net.onnx"))
    assert [(i.name, i.kind, i.in_channels, i.out_channels, i.groups) for i in found] == [
        ("dw", "depthwise", 4, 4, 4),
        ("grouped", "conv", 4, 6, 2),
        ("up", "transposed", 6, 15, 3),
        ("left", "linear", 7, 3, 1),
    ]
    deep, grouped, up, left = found
    assert (deep.kernel, deep.params, deep.out_shape) == ((3, 3), 40, (1, 4, 6, 6))
    assert deep.bytes == 4 * (4 * 64 + 4 * 36 + 40)
    assert (grouped.macs, up.macs, left.macs) == (6 * 36 * 2, 6 * 36 * 5 * 4, 15 * 3 * 7 * 7)


def test_layers_add_up_to_the_cost(tmp_path):
    path = _convolutions(tmp_path / "net.onnx")
    assert sum(layer.macs for layer in onnx_layers(path)) == onnx_cost(path).macs


def test_a_layer_without_a_weight_of_its_own_is_called_by_its_operator(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["a"], name="first"),
        helper.make_node("Conv", ["a", "conv.weight"], ["b"], name="second"),
        helper.make_node("Conv", ["b", "conv.weight"], ["c"], name="second"),
        helper.make_node("Conv", ["c", "c"], ["d"], name="dynamic"),
        helper.make_node("MatMul", ["d", "val_7"], ["e"], name="turned"),
        helper.make_node("Add", ["block.fc.bias", "e"], ["y"], name="add"),
    ]
    weights = {
        "conv.weight": _ones(1, 1, 1, 1),
        "val_7": _ones(1, 2),
        "block.fc.bias": _ones(2),
    }
    path = tmp_path / "net.onnx"
    save_graph(
        path, nodes, inputs={"x": [1, 1, 8, 8]}, outputs={"y": [1, 1, 1, 2]}, weights=weights
    )
    names = [layer.name for layer in onnx_layers(path)]
    assert names == ["conv", "second", "c", "dynamic", "block.fc"]


def test_a_product_of_two_activations_is_no_layer(tmp_path):
    path = tmp_path / "net.onnx"
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    save_graph(path, nodes, inputs={"x": [1, 3, 4, 4]}, outputs={"y": [1, 3, 4, 4]}, weights={})
    assert onnx_layers(path) == ()


def test_bytes_are_those_of_the_files_own_types_and_names_stay(tmp_path):
    source = tmp_path / "net.onnx"
    _named_net(source)
    images = np.random.default_rng(0).standard_normal((32, 3, 16, 16), dtype=np.float32)
    to_half(source, tmp_path / "half.onnx", "fp16")
    quantize_int8(source, tmp_path / "int8.onnx", images, preset="cpu")
    full, half, int8 = (onnx_layers(tmp_path / f"{n}.onnx") for n in ("net", "half", "int8"))
    for layers in (full, half, int8):
        assert [layer.name for layer in layers] == ["stem.0", "head"]
        assert [layer.macs for layer in layers] == [16 * 16 * 8 * 3, 8 * 5]
    assert [layer.bytes for layer in half] == [layer.bytes // 2 for layer in full]
    assert [layer.bytes for layer in int8] == [layer.bytes // 4 for layer in full]


def _named_net(path: Path) -> None:
    """Writes the tiny net with weights and operators called as the exporter calls them."""
    write_tiny_net(path)
    model = onnx.load(path)
    new = {"conv": "stem.0.weight", "linear": "head.weight"}
    for tensor in model.graph.initializer:
        tensor.name = new[tensor.name]
    for index, node in enumerate(model.graph.node):
        node.name = f"node_{index}"
        node.input[:] = [new.get(name, name) for name in node.input]
    onnx.save(model, path)
