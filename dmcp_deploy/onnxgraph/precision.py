"""The precision that the operators and weights of an ONNX graph show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.load import load_onnx
from dmcp_deploy.registry import PRECISIONS

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

#: Elements of the largest tensor that could hold a shape.
_SMALL_TENSOR = 1024
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_UNKNOWN = "UNDEFINED"
_FLOATS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16"}
_QUANTIZED = {"INT8": "int8", "UINT8": "int8", "FLOAT8E4M3FN": "fp8"}


def read_precision(path: Path) -> str | None:
    """Returns the precision of an ONNX file, one of `registry.PRECISIONS`; None for another.

    Raises:
        DmcpError: The onnx library is missing, or the file is absent or no ONNX file.
    """
    proto = load_onnx(path, weights=False)
    from onnx.shape_inference import InferenceError

    try:
        return graph_precision(proto.graph, infer_types(proto, strict=False), path)
    except (InferenceError, OtherPrecisionError):
        return None


class OtherPrecisionError(DmcpError):
    """A network that is of no precision that is known here."""


def infer_types(proto: ModelProto, strict: bool = True) -> dict[str, int]:
    """Returns the element type of every tensor of a graph, as ONNX infers it.

    Args:
        proto: The graph.
        strict: Whether what contradicts itself is an error.

    Raises:
        onnx.shape_inference.InferenceError: Types or shapes contradict one another.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(
        _without_weights(proto), check_type=strict, strict_mode=strict
    ).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return {**types, **{tensor.name: tensor.data_type for tensor in graph.initializer}}


def graph_precision(graph: GraphProto, types: Mapping[str, int], path: Path) -> str:
    """Returns a graph's precision, one of `registry.PRECISIONS`.

    It is that of its quantising operators, or else of the weights of most of its convolutions'
    and linear layers' elements.

    Args:
        graph: The graph.
        types: Element type of every tensor.
        path: Where it comes from, for the message.

    Raises:
        OtherPrecisionError: It is quantised to, or has weights of, other types.
    """
    quantized = {_quantized_type(node, types) for node in graph.node} - {None}
    if quantized:
        return _one_of(_QUANTIZED, quantized, "is quantised to", path)
    sizes = {tensor.name: prod(tensor.dims) for tensor in graph.initializer}
    elements: Counter[str | None] = Counter()
    for weight in (node.input[1] for node in graph.node if node.op_type in _WEIGHTED):
        elements[_type(weight, types)] += sizes.get(weight, 1)
    if not elements:
        return "fp32"
    return _one_of(_FLOATS, {elements.most_common(1)[0][0]}, "has weights of type", path)


def _without_weights(proto: ModelProto) -> ModelProto:
    """Returns a graph whose large weights have a type and a shape alone, which is all that counts.

    Shape inference copies its graph several times, weights and all.
    """
    from onnx import GraphProto, ModelProto

    graph = GraphProto(
        name=proto.graph.name,
        node=proto.graph.node,
        input=proto.graph.input,
        output=proto.graph.output,
        value_info=proto.graph.value_info,
        initializer=map(_without_values, proto.graph.initializer),
    )
    return ModelProto(
        ir_version=proto.ir_version,
        opset_import=proto.opset_import,
        functions=proto.functions,
        graph=graph,
    )


def _without_values(tensor: TensorProto) -> TensorProto:
    from onnx import TensorProto

    if prod(tensor.dims) <= _SMALL_TENSOR:
        return tensor
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _type(name: str, types: Mapping[str, int]) -> str:
    """Returns ONNX's name of a tensor's element type."""
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(types.get(name, TensorProto.UNDEFINED)))


def _quantized_type(node: NodeProto, types: Mapping[str, int]) -> str | None:
    """Returns the type that an operator quantises to or from; None for other operators."""
    if node.op_type == "QuantizeLinear":
        return _type(node.output[0], types)
    if node.op_type != "DequantizeLinear":
        return None
    # A bias is quantised to int32, whatever the rest is.
    name = _type(node.input[0], types)
    return None if name == "INT32" else name


def _one_of(names: Mapping[str, str], kinds: Iterable[str | None], what: str, path: Path) -> str:
    """Returns the one precision of some element types."""
    types = sorted(kind or _UNKNOWN for kind in kinds)
    precisions = {names.get(kind, "") for kind in types}
    if len(precisions) == 1 and "" not in precisions:
        return precisions.pop()
    raise OtherPrecisionError(
        f"{path} {what} {', '.join(types).lower()}, and a network here is of one of"
        f" {', '.join(PRECISIONS)}: export it again, or quantise its float32 file."
    )
