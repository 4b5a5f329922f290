"""Which operators of an ONNX file are a network's layers, and what each is called."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

#: Operators that are convolutions whatever their factors are.
CONVOLUTIONS = ("Conv", "ConvTranspose")
#: Linear layers only if one factor is stored; attention multiplies two activations.
PRODUCTS = ("Gemm", "MatMul")

_WEIGHT, _BIAS, _QUANTIZED = ".weight", ".bias", "_quantized"


def layer_nodes(graph: GraphProto) -> list[tuple[NodeProto, str]]:
    """Returns the convolution and linear operators in graph order, each with its layer's name.

    The exporter calls a weight "features.0.0.weight", and folding batch norms, simplifying,
    converting and quantising keep that: the layer is "features.0.0". A weight that it has turned
    round is "val_7", and the bias added after it tells the layer. Where there is no stored weight,
    or another layer has the same, the operator's own name stands in.
    """
    constants, stored = constant_names(graph), _Stored(graph)
    named: dict[str, NodeProto] = {}
    for node in graph.node:
        if node.op_type in CONVOLUTIONS or (
            node.op_type in PRODUCTS and constants & set(node.input[:2])
        ):
            name = stored.layer_of(node, weight_of(node, constants))
            free = (n for n in _possible_names(node, name) if n and n not in named)
            named[next(free)] = node
    return [(node, name) for name, node in named.items()]


def weight_of(node: NodeProto, constants: set[str]) -> str:
    """Returns the input of a convolution or linear operator that is its weight."""
    first, second = map(str, node.input[:2])
    return first if node.op_type in PRODUCTS and second not in constants else second


def stored_tensors(graph: GraphProto) -> dict[str, TensorProto]:
    """Returns name -> stored tensor, those of Constant operators by their output's name."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return tensors


def constant_names(graph: GraphProto) -> set[str]:
    """Returns the names of stored values and of what is computed from these alone."""
    names = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        fixed = bool(node.input) and all(not name or name in names for name in node.input)
        if fixed or node.op_type == "Constant":
            names.update(node.output)
    return names


def origin(name: str, producers: dict[str, NodeProto]) -> str:
    """Returns what a value was made of, back through what casts, scales and turns it."""
    while name in producers and producers[name].op_type in _SAME_VALUES:
        name = producers[name].input[0]
    return name


def producers_of(graph: GraphProto) -> dict[str, NodeProto]:
    """Returns value -> the operator that computes it."""
    return {name: node for node in graph.node for name in node.output}


_SAME_VALUES = {
    *("Cast", "DequantizeLinear", "Identity", "QuantizeLinear"),
    *("Reshape", "Squeeze", "Transpose", "Unsqueeze"),
}


class _Stored:
    """The names of stored weights and biases."""

    def __init__(self, graph: GraphProto) -> None:
        self._tensors, self._producers = stored_tensors(graph), producers_of(graph)
        self._added = {
            one: other
            for node in graph.node
            if node.op_type == "Add"
            for one, other in (node.input, node.input[::-1])
        }

    def layer_of(self, node: NodeProto, weight: str) -> str:
        """Returns the name of the layer that an operator is; "" if its weight is not stored."""
        name = self._name_of(weight)
        bias = self._name_of(self._added.get(node.output[0], ""))
        if name and not name.endswith(_WEIGHT) and bias.endswith(_BIAS):
            return bias.removesuffix(_BIAS)
        return name.removesuffix(_WEIGHT)

    def _name_of(self, value: str) -> str:
        """Returns the name of the stored tensor that a value is; "" if it is none."""
        name = origin(value, self._producers)
        if name not in self._tensors:
            return ""
        return name if name == value else name.removesuffix(_QUANTIZED)


def _possible_names(node: NodeProto, stored: str) -> Iterator[str]:
    yield from (stored, node.name, node.output[0])
    for number in itertools.count(2):
        yield f"{node.output[0]} ({number})"
