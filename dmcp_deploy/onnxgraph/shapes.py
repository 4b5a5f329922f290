"""The graph of an ONNX file with the shape and type of its values, at one batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.onnxgraph.load import load_onnx
from dmcp_deploy.onnxgraph.names import factors

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ShapedGraph:
    """A network's graph with what its values are.

    Attributes:
        path: The file.
        graph: The graph, its functions inlined.
        batch: Images per call.
        shapes: Value -> shape, where it follows from the input's.
        types: Value -> ONNX element type, where it is known.
    """

    path: Path
    graph: GraphProto
    batch: int
    shapes: Mapping[str, Shape]
    types: Mapping[str, int]

    def check_known(self, node: NodeProto) -> None:
        """Checks that the shapes at a convolution or linear operator are known.

        Raises:
            DmcpError: One does not follow from the input's.
        """
        for name in (*factors(node), *filter(None, node.output[:1])):
            if name not in self.shapes:
                raise DmcpError(
                    f"The multiply-adds of {self.path} cannot be counted: the shape of {name!r} at"
                    f" {node.op_type} {node.name!r} does not follow from the input's."
                )

    def bytes_of(self, name: str, type_from: str) -> int:
        """Returns the bytes of a value of known shape, stored in another value's type."""
        return prod(self.shapes[name]) * item_bytes(self.types.get(type_from, _FLOAT))


def shaped_graph(path: Path, batch: int = 1) -> ShapedGraph:
    """Returns the graph of an ONNX file with its shapes.

    Args:
        path: An ONNX file with one image input [N, C, H, W] of fixed C, H and W.
        batch: Images per call where the file leaves their number open.

    Raises:
        DmcpError: The onnx library is missing, the file is absent or no ONNX graph, has other
            inputs, or leaves the image size open.
    """
    model = load_onnx(path)
    fixed = _fix_batch(model.graph, path, batch)
    shapes, types = _infer(model, path)
    return ShapedGraph(path, model.graph, fixed, shapes, types)


def item_bytes(data_type: int) -> int:
    """Returns the bytes of one element of an ONNX type."""
    import onnx

    return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)


_FLOAT = 1


def _fix_batch(graph: GraphProto, path: Path, batch: int) -> int:
    """Returns the batch size to count at: the file's own, or the given where the axis is open."""
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != 1 or not inputs[0].type.tensor_type.shape.dim:
        raise DmcpError(f"{path} has {len(inputs)} inputs, where one of [N, C, H, W] is needed.")
    first, *others = inputs[0].type.tensor_type.shape.dim
    if not all(dim.dim_value for dim in others):
        raise DmcpError(f"{path} leaves the image size open: export it with a fixed one.")
    if first.dim_value:
        return int(first.dim_value)
    symbol, first.dim_value = str(first.dim_param), batch
    if symbol:
        # The exporter noted shapes that inference does not find again, such as a gather's.
        _fix_symbol(graph, symbol, batch)
    else:
        # Shapes noted for the open axis would contradict the fixed one.
        del graph.value_info[:]
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
    return batch


def _fix_symbol(graph: GraphProto, symbol: str, size: int) -> None:
    for value in (*graph.value_info, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == symbol:
                dim.dim_value = size


def _infer(model: ModelProto, path: Path) -> tuple[dict[str, Shape], dict[str, int]]:
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, UnicodeDecodeError) as err:
        raise DmcpError(f"The shapes in {path} cannot be told: {reason_of(err)}.") from err
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
        if _is_known(value):
            shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return shapes, types


def _is_known(value: ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)
