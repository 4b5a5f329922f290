"""Networks that do nothing but multiply, or nothing but move data: for measuring limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

#: Name of the operator that reads and writes all data.
STREAM = "stream"

#: So many layers in a row that converting the image to the runtime's layout takes a small share.
_LAYERS = 3
#: Sides of the image, and channels: 100 million multiply-adds a layer and more, every size a
#: multiple of what vector units take, and the weights small enough for a core's own cache.
_CONV_SHAPE = (1, 128, 28, 28)
_MATMUL_SHAPE = (1, 1, 512, 512)
_OPSET, _IR_VERSION = 20, 10
_SEED = 0


def write_products(path: Path, op_type: str, quantized: bool) -> tuple[int, int, int, int]:
    """Writes a network of large layers in a row; returns its input's shape.

    Args:
        path: The file to write.
        op_type: "Conv" (3x3, as many channels out as in) or "MatMul" (square).
        quantized: Whether the layers are quantised to INT8.
    """
    shape = _CONV_SHAPE if op_type == "Conv" else _MATMUL_SHAPE
    weight = (shape[1], shape[1], 3, 3) if op_type == "Conv" else shape[2:]
    options = {"pads": [1, 1, 1, 1]} if op_type == "Conv" else {}
    net = _Net(quantized, weight)
    value = net.quantize("x")
    for index in range(_LAYERS):
        value = net.quantize(net.add(op_type, [value, net.weight(index)], **options))
    net.write(path, shape, value, shape)
    return shape


def write_stream(path: Path, size_bytes: int) -> tuple[int, int, int, int]:
    """Writes a network that reads and writes an array once; returns its input's shape.

    Args:
        path: The file to write.
        size_bytes: Size of the array in float32, a multiple of 16 kB.
    """
    shape = (1, 16, size_bytes // (16 * 4 * 64), 64)
    net = _Net(False, ())
    value = net.add("Relu", ["x"], name=STREAM)
    # What is returned is small: handing over a large array would cost more than writing it.
    net.write(path, shape, net.add("GlobalMaxPool", [value]), (1, 16, 1, 1))
    return shape


class _Net:
    """A graph in the making."""

    def __init__(self, quantized: bool, weight: tuple[int, ...]) -> None:
        self._quantized, self._weight = quantized, weight
        self._nodes: list[NodeProto] = []
        self._tensors: dict[str, TensorProto] = {}

    def add(self, op_type: str, inputs: list[str], **options: Any) -> str:
        """Appends an operator; returns its output's name."""
        from onnx import helper

        output = f"value{len(self._nodes)}"
        # ONNX Runtime's profile does not tell quantised operators without a name apart.
        named = {"name": f"node{len(self._nodes)}", **options}
        self._nodes.append(helper.make_node(op_type, inputs, [output], **named))
        return output

    def quantize(self, value: str) -> str:
        """Appends what quantises a value and back; returns the name, the same if nothing does."""
        if not self._quantized:
            return value
        scale = [self._store("scale", np.float32(0.05)), self._store("zero", np.uint8(128))]
        return self.add("DequantizeLinear", [self.add("QuantizeLinear", [value, *scale]), *scale])

    def weight(self, index: int) -> str:
        """Stores one more layer's weight; returns the name of its value."""
        weight = np.random.default_rng(_SEED + index).standard_normal(self._weight, np.float32)
        if not self._quantized:
            return self._store(f"layer{index}.weight", weight * np.float32(0.03))
        integers = np.clip(weight * 32, -127, 127).astype(np.int8)
        stored = self._store(f"layer{index}.weight", integers)
        scale = [self._store("weight_scale", np.float32(0.001)), self._store("none", np.int8(0))]
        return self.add("DequantizeLinear", [stored, *scale])

    def write(
        self, path: Path, shape: tuple[int, ...], output: str, out_shape: tuple[int, ...]
    ) -> None:
        """Writes the graph, from "x" to a value of it."""
        import onnx
        from onnx import TensorProto, helper

        graph = helper.make_graph(
            self._nodes,
            "limits",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, out_shape)],
            list(self._tensors.values()),
        )
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        onnx.save_model(model, str(path))

    def _store(self, name: str, value: object) -> str:
        from onnx import numpy_helper

        self._tensors[name] = numpy_helper.from_array(np.asarray(value), name)
        return name
