"""The convolution and linear layers of an ONNX file: their shapes, multiply-adds and traffic."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.image_nodes import image_values
from dmcp_deploy.onnxgraph.names import (
    CONVOLUTIONS,
    EINSUM,
    RECURRENT,
    einsum_of,
    factors,
    layer_nodes,
    origin,
    producers_of,
    stored_tensors,
    weight_of,
)
from dmcp_deploy.onnxgraph.shapes import Shape, ShapedGraph, item_bytes, shaped_graph

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


@dataclass(frozen=True)
class OnnxLayer:
    """One convolution or linear layer, at one batch size.

    Attributes:
        name: Its name in the network, as in "features.0.0" (see `onnxgraph.names`).
        kind: "conv", "depthwise" (a convolution with one group a channel), "transposed",
            "linear" or "recurrent".
        macs: Multiply-adds of one call, all its images together; no bias.
        params: Elements of its stored weight and bias.
        in_channels: Channels it reads.
        out_channels: Channels it writes.
        groups: Groups of a convolution; 1 for a linear layer.
        kernel: Sides of a convolution's filter; empty for a linear layer.
        out_shape: Shape of its output.
        bytes: Bytes of its input, output, weight and bias in one call, in the types that the file
            stores or quantises them in.
    """

    name: str
    kind: str
    macs: int
    params: int
    in_channels: int
    out_channels: int
    groups: int
    kernel: tuple[int, ...]
    out_shape: tuple[int, ...]
    bytes: int


def onnx_layers(path: Path, batch: int = 1) -> tuple[OnnxLayer, ...]:
    """Returns the convolution and linear layers of an ONNX file, in graph order.

    Args:
        path: An ONNX file with one image input [N, C, H, W] of fixed C, H and W, in any precision.
        batch: Images per call; a file with a fixed batch size is counted at its own.

    Raises:
        DmcpError: The onnx library is missing, the file is absent or no ONNX graph, the batch
            is below 1, or a shape that counts cannot be inferred.
    """
    if batch < 1:
        raise DmcpError(f"The batch size is {batch} and must be 1 or more.")
    return layers_of(shaped_graph(Path(path), batch))


def layers_of(shaped: ShapedGraph) -> tuple[OnnxLayer, ...]:
    """Returns the convolution and linear layers of a graph, in its order.

    Raises:
        DmcpError: A shape that counts is not known.
    """
    traffic = _Traffic(shaped)
    return tuple(_layer(node, name, shaped, traffic) for node, name in layer_nodes(shaped.graph))


def _layer(node: NodeProto, name: str, shaped: ShapedGraph, traffic: _Traffic) -> OnnxLayer:
    shaped.check_known(node)
    weight = weight_of(node, traffic.images)
    sizes = _sizes(node, weight, shaped)
    return OnnxLayer(
        name=name,
        kind=_kind(node, sizes),
        macs=_macs(node, shaped, traffic.images),
        params=traffic.stored(node, weight).elements,
        in_channels=sizes.inputs,
        out_channels=sizes.outputs,
        groups=sizes.groups,
        kernel=sizes.kernel,
        out_shape=shaped.shapes.get(node.output[0], ()),
        bytes=traffic.bytes_of(node, weight),
    )


@dataclass(frozen=True)
class _Sizes:
    inputs: int
    outputs: int
    groups: int = 1
    kernel: tuple[int, ...] = ()


def _sizes(node: NodeProto, weight: str, shaped: ShapedGraph) -> _Sizes:
    shapes = shaped.shapes
    if node.op_type in RECURRENT:
        directions, inputs = shapes[node.input[1]][0], shapes[node.input[1]][2]
        return _Sizes(inputs, directions * shapes[node.input[2]][2])
    if node.op_type == EINSUM:
        return _einsum_sizes(node, weight, shaped)
    if node.op_type not in CONVOLUTIONS:
        out = shapes[node.output[0]]
        # A weight that is the left factor makes rows of the output, not columns.
        rows = weight == node.input[0] and len(out) > 1
        return _Sizes(_summed(node, shapes[node.input[0]]), out[-2 if rows else -1] if out else 1)
    first, second, *kernel = shapes[weight]
    groups = next((int(a.i) for a in node.attribute if a.name == "group"), 1)
    if node.op_type == "Conv":  # [out, in / groups, kernel...]
        return _Sizes(second * groups, first, groups, tuple(kernel))
    return _Sizes(first, second * groups, groups, tuple(kernel))  # [in, out / groups, kernel...]


def _einsum_sizes(node: NodeProto, weight: str, shaped: ShapedGraph) -> _Sizes:
    einsum, names = einsum_of(node), factors(node)
    sizes = einsum.sizes([shaped.shapes[name] for name in names])
    term = einsum.terms[names.index(weight)]
    others = "".join(t for t, name in zip(einsum.terms, names, strict=True) if name != weight)
    summed = [sizes[letter] for letter in term if letter not in einsum.output]
    return _Sizes(prod(summed), prod(sizes[letter] for letter in term if letter not in others))


def _kind(node: NodeProto, sizes: _Sizes) -> str:
    if node.op_type in RECURRENT:
        return "recurrent"
    if node.op_type not in CONVOLUTIONS:
        return "linear"
    if node.op_type == "ConvTranspose":
        return "transposed"
    return "depthwise" if sizes.groups == sizes.inputs > 1 else "conv"


def _macs(node: NodeProto, shaped: ShapedGraph, images: set[str]) -> int:
    shapes = shaped.shapes
    if node.op_type == EINSUM:
        einsum, names = einsum_of(node), factors(node)
        sizes = einsum.sizes([shapes[name] for name in names])
        products = einsum.products([name in images for name in names])
        return sum(prod(sizes[letter] for letter in letters) for letters in products)
    if node.op_type in RECURRENT:
        steps, sequences, _ = shapes[node.input[0]]
        # The state before the first step is known, and so is its product with the weights.
        known = len(node.input) < 6 or node.input[5] not in images
        inputs, state = (prod(shapes[name]) for name in node.input[1:3])
        return sequences * (steps * inputs + (steps - known) * state)
    if node.op_type == "Conv":
        # Each output element sums over one filter: [out, in / groups, kernel...].
        return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        # Each input element is spread over one filter: [in, out / groups, kernel...].
        return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])
    return prod(shapes[node.output[0]]) * _summed(node, shapes[node.input[0]])


def _summed(node: NodeProto, left: Shape) -> int:
    """Returns how many products each output element of a linear layer sums."""
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return left[0 if node.op_type == "Gemm" and transposed else -1]


@dataclass(frozen=True)
class _StoredSize:
    elements: int = 0
    bytes: int = 0


class _Traffic:
    """What layers read and write, in the types that the file stores or quantises it in."""

    def __init__(self, shaped: ShapedGraph) -> None:
        self.images = image_values(shaped.graph)
        self._shaped = shaped
        self._tensors, self._producers = stored_tensors(shaped.graph), producers_of(shaped.graph)
        self._readers = _readers_of(shaped.graph)
        self._outputs = {value.name for value in shaped.graph.output}

    def bytes_of(self, node: NodeProto, weight: str) -> int:
        """Returns the bytes of an operator's input, output and stored tensors."""
        moved = [name for name in factors(node) if name in self.images]
        read = sum(self._shaped.bytes_of(name, self._type_read(name)) for name in moved)
        output = node.output[0]
        written = self._shaped.bytes_of(output, self._type_written(output)) if output else 0
        return read + written + self.stored(node, weight).bytes

    def stored(self, node: NodeProto, weight: str) -> _StoredSize:
        """Returns the size of an operator's stored weight and bias."""
        origins = [origin(name, self._producers) for name in (weight, *node.input[2:])]
        tensors = [self._tensors[name] for name in origins if name in self._tensors]
        return _StoredSize(
            sum(prod(tensor.dims) for tensor in tensors),
            sum(prod(tensor.dims) * item_bytes(tensor.data_type) for tensor in tensors),
        )

    def _type_read(self, name: str) -> str:
        """Returns the value whose type a layer's input really has: quantised, it is the integer."""
        made_by = self._producers.get(name)
        if made_by is not None and made_by.op_type == "DequantizeLinear":
            return str(made_by.input[0])
        return name

    def _type_written(self, name: str) -> str:
        """Returns the value whose type a layer's output really has, its activation fused."""
        while len(self._readers.get(name, ())) == 1 and name not in self._outputs:
            (reader,) = self._readers[name]
            if reader.op_type == "QuantizeLinear":
                return str(reader.output[0])
            if reader.op_type not in _ACTIVATIONS:
                return name
            name = reader.output[0]
        return name


#: What runtimes compute together with the layer before it.
_ACTIVATIONS = {"Clip", "LeakyRelu", "Relu", "Sigmoid", "HardSigmoid", "HardSwish"}


def _readers_of(graph: GraphProto) -> dict[str, list[NodeProto]]:
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    return readers
