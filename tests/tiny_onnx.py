"""Small real ONNX networks, built without torch, with their hand-derived truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class TinyNet:
    """A 1x1 convolution, ReLU, global average pooling and a linear layer."""

    path: Path
    macs: int
    params: int
    conv: np.ndarray
    linear: np.ndarray

    def logits(self, images: np.ndarray) -> np.ndarray:
        features = np.einsum("nchw,oc->nohw", images, self.conv[:, :, 0, 0])
        return np.maximum(features, 0).mean(axis=(2, 3)) @ self.linear.T


def write_tiny_net(
    path: Path,
    *,
    width: int = 8,
    size: int | str = 16,
    channels: int = 3,
    batch: int | str = "batch",
    classes: int = 5,
) -> TinyNet:
    rng = np.random.default_rng(width)
    conv = rng.standard_normal((width, channels, 1, 1), dtype=np.float32)
    linear = rng.standard_normal((classes, width), dtype=np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "conv"], ["maps"]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "linear"], ["logits"], transB=1),
    ]
    save_graph(
        path,
        nodes,
        inputs={"input": [batch, channels, size, size]},
        outputs={"logits": [batch, classes]},
        weights={"conv": conv, "linear": linear},
    )
    pixels = size * size if isinstance(size, int) else 0
    macs = pixels * width * channels + width * classes
    return TinyNet(path, macs, width * channels + width * classes, conv, linear)


def save_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    weights: dict[str, np.ndarray],
) -> None:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in outputs.items()],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))
