from __future__ import annotations

import sys

import numpy as np
import pytest
from onnx import helper
from tiny_onnx import save_graph, write_tiny_net

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.cost import OnnxCost, onnx_cost


@pytest.mark.parametrize("batch", ["batch", 1, 6])
def test_a_tiny_net_costs_what_was_derived_by_hand_at_any_batch(tmp_path, batch):
    net = write_tiny_net(tmp_path / "net.onnx", batch=batch)
    assert net.macs == 16 * 16 * 8 * 3 + 8 * 5
    assert onnx_cost(net.path) == OnnxCost(net.macs, net.params, 4 * net.params)


def _ones(*shape: int) -> np.ndarray:
    return np.ones(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("nodes", "weights", "output", "macs"),
    [
        pytest.param(
            [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], group=2)],
            {"w": _ones(6, 2, 3, 3)},
            ["n", 6, 3, 3],
            3 * 3 * 6 * 2 * 9,
            id="strided grouped convolution",
        ),
        pytest.param(
            [helper.make_node("Conv", ["x", "w", "b"], ["y"], group=4, dilations=[2, 2])],
            {"w": _ones(4, 1, 3, 3), "b": _ones(4)},
            ["n", 4, 4, 4],
            4 * 4 * 4 * 9,
            id="dilated depthwise convolution, its bias not counted",
        ),
        pytest.param(
            [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])],
            {"w": _ones(4, 5, 2, 2)},
            ["n", 5, 16, 16],
            8 * 8 * 4 * 5 * 4,
            id="transposed convolution",
        ),
        pytest.param(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            {"w": _ones(8, 7)},
            ["n", 4, 8, 7],
            4 * 8 * 8 * 7,
            id="linear layer over a map",
        ),
        pytest.param(
            [
                helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
                helper.make_node("MatMul", ["x", "wt"], ["y"]),
            ],
            {"w": _ones(7, 8)},
            ["n", 4, 8, 7],
            4 * 8 * 8 * 7,
            id="linear layer whose weight is stored transposed",
        ),
        pytest.param(
            [helper.make_node("MatMul", ["x", "x"], ["y"])],
            {},
            ["n", 4, 8, 8],
            0,
            id="product of two activations",
        ),
        pytest.param(
            [
                helper.make_node("Shape", ["x"], ["n"], start=0, end=1),
                helper.make_node("Concat", ["n", "rest"], ["shape"], axis=0),
                helper.make_node("Reshape", ["x", "shape"], ["flat"]),
                helper.make_node("Gemm", ["flat", "w"], ["y"]),
            ],
            {"w": _ones(256, 3), "rest": np.array([256], dtype=np.int64)},
            ["n", 3],
            256 * 3,
            id="linear layer behind a computed reshape",
        ),
    ],
)
def test_operators_cost_what_was_derived_by_hand(tmp_path, nodes, weights, output, macs):
    path = tmp_path / "net.onnx"
    save_graph(path, nodes, inputs={"x": ["n", 4, 8, 8]}, outputs={"y": output}, weights=weights)
    cost = onnx_cost(path)
    floats = [w for w in weights.values() if w.dtype == np.float32]
    assert cost.macs == macs
    assert cost.params == sum(w.size for w in floats)
    assert cost.weight_bytes == sum(w.nbytes for w in floats)


def test_half_precision_weights_take_two_bytes(tmp_path):
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=1),
        helper.make_node("Conv", ["x", "wide"], ["y"]),
    ]
    weights = {"w": np.ones((2, 3, 1, 1), dtype=np.float16)}
    save_graph(
        tmp_path / "net.onnx",
        nodes,
        inputs={"x": [1, 3, 4, 4]},
        outputs={"y": [1, 2, 4, 4]},
        weights=weights,
    )
    assert onnx_cost(tmp_path / "net.onnx") == OnnxCost(macs=4 * 4 * 6, params=6, weight_bytes=12)


NIGHTLY = pytest.mark.nightly("ten seconds each, for a sum over layers like those of ResNet-18")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("resnet18", 1_814_073_344),
        pytest.param("mobilenet_v2", 300_774_272, marks=NIGHTLY),
        pytest.param("resnet50", 4_089_184_256, marks=NIGHTLY),
    ],
)
def test_the_papers_networks_cost_what_the_paper_counts(tmp_path, name, macs):
    torchvision = pytest.importorskip("torchvision")
    from dmcp_deploy.export.to_onnx import export_onnx

    net = torchvision.models.get_model(name, weights=None)
    export_onnx(net, tmp_path / "net.onnx", input_shape=(3, 224, 224))
    assert onnx_cost(tmp_path / "net.onnx").macs == macs


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_a_file_that_is_no_onnx_is_one_sentence(tmp_path, content):
    path = tmp_path / "net.onnx"
    if content is not None:
        path.write_bytes(content)
    expected = "is not an ONNX file" if content is not None else "There is no ONNX file"
    with pytest.raises(DmcpError, match=expected):
        onnx_cost(path)


def test_an_open_image_size_is_one_sentence(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx", size="side")
    with pytest.raises(DmcpError, match="leaves the image size open"):
        onnx_cost(net.path)


def test_a_shape_that_cannot_be_inferred_is_named(tmp_path):
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Cast", ["places"], ["wide"], to=1),
        helper.make_node("MatMul", ["w", "wide"], ["y"]),
    ]
    save_graph(
        tmp_path / "net.onnx",
        nodes,
        inputs={"x": [1, 3, 4, 4]},
        outputs={"y": [2, "found"]},
        weights={"w": _ones(2, 4)},
    )
    with pytest.raises(DmcpError, match="the shape of 'wide' at MatMul"):
        onnx_cost(tmp_path / "net.onnx")


def test_a_missing_library_is_named_with_the_extra(tmp_path, monkeypatch):
    net = write_tiny_net(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DmcpError, match=r"pip install dmcp-deploy\[export\]"):
        onnx_cost(net.path)
