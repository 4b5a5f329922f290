"""Kernels' names, as the runtimes make them, and the layers that these tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tiny_onnx import save_graph

from dmcp_deploy.runtimes.profile_names import Kernel, layers_of_kernels


@pytest.fixture
def graph(tmp_path: Path) -> onnx.GraphProto:
    """A residual of two convolutions, one with an activation, then a product of activations."""
    nodes = [
        helper.make_node("Conv", ["x", "one.weight"], ["a"], name="node_Conv_1"),
        helper.make_node("Relu", ["a"], ["b"], name="node_relu"),
        helper.make_node("Conv", ["x", "two.weight"], ["c"], name="node_Conv_2"),
        helper.make_node("Add", ["b", "c"], ["d"], name="node_add"),
        helper.make_node("MatMul", ["d", "d"], ["e"], name="node_attention"),
        helper.make_node("MatMul", ["e", "three.weight"], ["y"]),
    ]
    weight = np.ones((3, 3, 1, 1), dtype=np.float32)
    weights = {
        "one.weight": weight,
        "two.weight": weight + 1,
        "three.weight": np.eye(4, dtype="f4"),
    }
    path = tmp_path / "net.onnx"
    save_graph(
        path, nodes, inputs={"x": [1, 3, 4, 4]}, outputs={"y": [1, 3, 4, 4]}, weights=weights
    )
    return onnx.load(path).graph


def layers(graph: onnx.GraphProto, *names: str, kind: str = "Conv") -> list[str | None]:
    return layers_of_kernels([Kernel(name, kind, tuple(name.split(","))) for name in names], graph)


@pytest.mark.parametrize(
    "name",
    [
        "node_Conv_1",
        "a_nchwc",
        "InsertedPrecisionFreeCast_a_nchwc",
        "node_Conv_1_token_12",
        "node_Conv_1,node_relu",
        "node_Conv_1/WithoutBiases/DequantizationMultiply",
        "node_Conv_1_myl0_3",
    ],
)
def test_a_kernel_is_called_by_its_layer_in_the_way_of_each_runtime(graph, name):
    assert layers(graph, name) == ["one"]


def test_a_kernel_called_by_what_is_fused_with_it_gets_the_layer_before(graph):
    assert layers(graph, "b_nchwc", "c_nchwc") == ["one", "two"]
    assert layers(graph, "node_relu", "node_Conv_2") == ["one", "two"]


def test_of_two_layers_before_the_one_that_is_left_is_meant(graph):
    assert layers(graph, "node_add", "node_Conv_1") == ["two", "one"]
    assert layers(graph, "d_nchwc", "node_relu") == ["two", "one"]
    assert layers(graph, "node_add") == [None]


def test_a_product_of_activations_is_no_layer(graph):
    assert layers(graph, "node_attention", "MatMul_5", kind="MatMul") == [None, "three"]


@pytest.mark.parametrize("kind", ["ReorderOutput", "Convert", "Add", "Reformat"])
def test_a_kernel_that_does_not_multiply_is_no_layer(graph, kind):
    assert layers(graph, "node_Conv_1", "b_nchwc", kind=kind) == [None, None]


def test_a_kernel_of_no_kind_counts_by_its_name(graph):
    names = ("node_Conv_1", "Reformatting CopyNode for Input Tensor 0 to node_Conv_1", "unknown")
    assert layers(graph, *names, kind="") == ["one", None, None]


def test_two_kernels_of_one_layer_are_both_its_own(graph):
    assert layers(graph, "node_Conv_1_myl0_3", "node_Conv_1_myl0_4") == ["one", "one"]
