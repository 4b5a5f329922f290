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
    pixels: int
    conv: np.ndarray
    linear: np.ndarray

    @property
    def roundings(self) -> int:
        """Returns the products, and pixels pooled, that are added up behind a logit."""
        return self.conv.shape[1] + self.pixels + self.linear.shape[1]

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
    return TinyNet(path, macs, width * channels + width * classes, pixels, conv, linear)


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


def write_mixed_net(
    path: Path,
    *,
    batch: int | str = "batch",
    opset: int = 20,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Writes a net of what precision passes must tell apart; images are [N, 3, 16, 16].

    A convolution with Clip, a depthwise one with a residual, Resize by scales and by sizes that
    are computed from the shape in floating point, pooling and a linear layer. Each weight is
    large enough to survive FP16.
    """
    rng = np.random.default_rng(0)
    weights = {
        "conv": rng.uniform(0.05, 0.3, (8, 3, 3, 3)) * rng.choice([-1, 1], (8, 3, 3, 3)),
        "conv_bias": rng.uniform(-0.5, 0.5, 8),
        "depthwise": rng.uniform(0.05, 0.5, (8, 1, 3, 3))
        * np.geomspace(1, 4, 8)[:, None, None, None],
        "linear": rng.uniform(-1, 1, (5, 8)),
        "floor": np.array(0.0),
        "ceiling": np.array(6.0),
        "scales": np.array([1, 1, 1.7, 1.7]),
        "third": np.array([1, 1, 1 / 3, 1 / 3]),
    }
    nodes = [
        helper.make_node("Conv", ["input", "conv", "conv_bias"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["maps", "floor", "ceiling"], ["active"], name="clip"),
        helper.make_node("Conv", ["active", "depthwise"], ["deep"], group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["deep", "active"], ["sum"]),
        helper.make_node("Resize", ["sum", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Shape", ["large"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["sides"], name="sides", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sides", "third"], ["thirds"], name="thirds"),
        helper.make_node("Cast", ["thirds"], ["sizes"], name="sizes", to=TensorProto.INT64),
        helper.make_node("Resize", ["large", "", "", "sizes"], ["small"], mode="linear"),
        helper.make_node("GlobalAveragePool", ["small"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "linear"], ["logits"], transB=1),
    ]
    save_graph(
        path,
        nodes,
        inputs={"input": [batch, 3, 16, 16]},
        outputs={"logits": [batch, 5]},
        weights={name: np.asarray(value, np.float32) for name, value in weights.items()},
    )
    change_model(path, opset=opset, metadata=metadata)
    return path


def change_model(
    path: Path, *, opset: int | None = None, metadata: dict[str, str] | None = None
) -> None:
    """Rewrites the opset label or the metadata of a file, unchecked."""
    model = onnx.load_model(path)
    if opset is not None:
        model.opset_import[0].version = opset
    helper.set_model_props(model, metadata or {})
    onnx.save_model(model, path)
