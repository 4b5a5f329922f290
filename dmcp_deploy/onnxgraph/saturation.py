"""INT8 weights that can leave the 16 bits that x86 processors without VNNI add products up in."""

from __future__ import annotations

from pathlib import Path

from dmcp_deploy.onnxgraph.load import load_onnx
from dmcp_deploy.onnxgraph.names import stored_tensors

#: Two products of such a weight and an activation up to 255 stay below 2**15.
LARGEST_SAFE = 64

_WEIGHTED = ("Conv", "Gemm", "MatMul")


def can_saturate(path: Path) -> bool:
    """Returns whether a Q/DQ ONNX file has stored INT8 weights beyond 64 in magnitude.

    On processors of which `machine.processor.adds_int8_in_16_bits` is true, ONNX Runtime and
    OpenVINO cut off the sum of two products of these.

    Raises:
        DmcpError: The onnx library is missing, or the file is absent or no ONNX graph.
    """
    graph = load_onnx(path).graph
    from onnx import TensorProto, numpy_helper

    source = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    names = {
        source[node.input[1]]
        for node in graph.node
        if node.op_type in _WEIGHTED and source.keys() >= set(node.input[:2])
    }
    weights = [
        numpy_helper.to_array(tensor)
        for name, tensor in stored_tensors(graph).items()
        if name in names and tensor.data_type == TensorProto.INT8
    ]
    return any(max(weight.max(), -int(weight.min())) > LARGEST_SAFE for weight in weights)
