"""Multiply-adds and parameters, counted from the ONNX graph itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from dmcp_deploy.errors import DmcpError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class OnnxCost:
    """What an ONNX graph costs.

    Attributes:
        macs: Multiply-adds of convolution and linear layers for one image; no bias, no
            activation, no product of two activations.
        params: Elements of the stored weights of rank 1 and up. The exporter folds batch norms
            into convolutions and stores equal tensors once, so the network itself has some more.
        weight_bytes: Bytes of these weights.
    """

    macs: int
    params: int
    weight_bytes: int


def onnx_cost(path: Path) -> OnnxCost:
    """Returns the cost of the network in an ONNX file, for one image.

    Args:
        path: An ONNX file with one image input [N, C, H, W] of fixed C, H and W.

    Raises:
        DmcpError: The onnx library is missing, the file is absent or no ONNX graph, or a
            shape that counts cannot be inferred.
    """
    model = _load(Path(path))
    batch = _fix_batch(model.graph, Path(path))
    shapes = _infer_shapes(model)
    constants = _constants(model.graph)
    macs = 0
    for node in model.graph.node:
        rule = _RULES.get(node.op_type)
        if rule is None or (node.op_type in _PRODUCTS and not constants & set(node.input[:2])):
            continue
        macs += rule(node, _node_shapes(node, shapes, Path(path)))
    weights = _weights(model.graph)
    return OnnxCost(
        macs=macs // batch,
        params=sum(prod(weight.dims) for weight in weights),
        weight_bytes=sum(prod(weight.dims) * _item_bytes(weight) for weight in weights),
    )


def _conv(node: NodeProto, shapes: Shapes) -> int:
    # Each output element sums over one filter: [out, in / groups, kernel...].
    return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])


def _conv_transpose(node: NodeProto, shapes: Shapes) -> int:
    # Each input element is spread over one filter: [in, out / groups, kernel...].
    return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])


def _gemm(node: NodeProto, shapes: Shapes) -> int:
    transposed = any(attr.name == "transA" and attr.i for attr in node.attribute)
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]


def _matmul(node: NodeProto, shapes: Shapes) -> int:
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


_RULES: dict[str, Callable[[NodeProto, Shapes], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
#: Linear layers only if one factor is stored; attention multiplies two activations.
_PRODUCTS = {"Gemm", "MatMul"}


def _load(path: Path) -> ModelProto:
    try:
        import onnx.inliner
        from google.protobuf.message import DecodeError
    except ImportError as err:
        raise DmcpError(
            f"Counting an ONNX file's cost needs onnx ({err}): pip install dmcp-deploy[export], or"
            " onnx alone on a device."
        ) from err
    try:
        model = onnx.load(str(path))
    except FileNotFoundError as err:
        raise DmcpError(f"There is no ONNX file {path}.") from err
    except OSError as err:
        raise DmcpError(f"Cannot read {path}: {err.strerror or err}.") from err
    except DecodeError as err:
        raise DmcpError(f"{path} is not an ONNX file: {err}.") from err
    if not model.graph.node:
        raise DmcpError(f"{path} is not an ONNX file, or one without a single operator.")
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _fix_batch(graph: GraphProto, path: Path) -> int:
    """Returns the batch size to count at: the file's own, or 1 set where the axis is open."""
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != 1 or not inputs[0].type.tensor_type.shape.dim:
        raise DmcpError(f"{path} has {len(inputs)} inputs, where one of [N, C, H, W] is needed.")
    first, *others = inputs[0].type.tensor_type.shape.dim
    if not all(dim.dim_value for dim in others):
        raise DmcpError(f"{path} leaves the image size open: export it with a fixed one.")
    if first.dim_value:
        return int(first.dim_value)
    symbol, first.dim_value = str(first.dim_param), 1
    if symbol:
        # The exporter knows shapes that inference does not find again, such as a gather's.
        _fix_symbol(graph, symbol, 1)
    else:
        # Shapes noted for the open axis would contradict the fixed one.
        del graph.value_info[:]
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
    return 1


def _fix_symbol(graph: GraphProto, symbol: str, size: int) -> None:
    for value in (*graph.value_info, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == symbol:
                dim.dim_value = size


def _infer_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if _is_known(value):
            shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return shapes


def _is_known(value: ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)


def _node_shapes(node: NodeProto, shapes: Shapes, path: Path) -> Shapes:
    for name in (*node.input[:2], node.output[0]):
        if name not in shapes:
            raise DmcpError(
                f"The multiply-adds of {path} cannot be counted: the shape of {name!r} at"
                f" {node.op_type} {node.name!r} does not follow from the input's."
            )
    return shapes


def _constants(graph: GraphProto) -> set[str]:
    """Returns the names of stored values and of what is computed from these alone."""
    names = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        fixed = bool(node.input) and all(not name or name in names for name in node.input)
        if fixed or node.op_type == "Constant":
            names.update(node.output)
    return names


def _weights(graph: GraphProto) -> list[TensorProto]:
    """Returns the stored tensors that are weights: not scalars, not shapes or indices."""
    import onnx

    indices = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}
    in_nodes = [
        attr.t
        for node in graph.node
        if node.op_type == "Constant"
        for attr in node.attribute
        if attr.name == "value"
    ]
    return [
        tensor
        for tensor in (*graph.initializer, *in_nodes)
        if tensor.dims and tensor.data_type not in indices
    ]


def _item_bytes(tensor: TensorProto) -> int:
    import onnx

    return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
