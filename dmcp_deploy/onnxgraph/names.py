"""Which operators of an ONNX file are a network's layers, and what each is called."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dmcp_deploy.onnxgraph.einsum import Einsum, parse_einsum
from dmcp_deploy.onnxgraph.image_nodes import image_values

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

#: Operators that are convolutions whatever their factors are.
CONVOLUTIONS = ("Conv", "ConvTranspose")
#: Linear layers only if one factor is stored; attention multiplies two activations.
PRODUCTS = ("Gemm", "MatMul")
EINSUM = "Einsum"
#: Their first input is multiplied by stored weights, step by step.
RECURRENT = ("GRU", "LSTM", "RNN")

_WEIGHT, _BIAS, _QUANTIZED = ".weight", ".bias", "_quantized"


def layer_nodes(graph: GraphProto) -> list[tuple[NodeProto, str]]:
    """Returns the convolution and linear operators in graph order, each with its layer's name.

    An operator whose inputs do not depend on the images is none: its result is known before.
    The exporter calls a weight "features.0.0.weight", and folding batch norms, simplifying,
    converting and quantising keep that: the layer is "features.0.0". A weight that it has turned
    round is "val_7", and the bias added after it tells the layer. Where there is no stored weight,
    or another layer has the same, the operator's own name stands in.
    """
    images, stored = image_values(graph), _Stored(graph)
    named: dict[str, NodeProto] = {}
    for node in graph.node:
        if _is_layer(node, images):
            name = stored.layer_of(node, weight_of(node, images))
            free = (n for n in _possible_names(node, name) if n and n not in named)
            named[next(free)] = node
    return [(node, name) for name, node in named.items()]


def weight_of(node: NodeProto, images: set[str]) -> str:
    """Returns the input of a layer that is its weight.

    Args:
        node: The operator.
        images: The values that follow from the images.
    """
    first, second, *_ = factors(node)
    if node.op_type == EINSUM:
        return next(name for name in factors(node) if name not in images)
    return first if node.op_type in PRODUCTS and second in images else second


def factors(node: NodeProto) -> list[str]:
    """Returns the inputs that a layer multiplies by one another."""
    count = {EINSUM: len(node.input), **dict.fromkeys(RECURRENT, 3)}.get(node.op_type, 2)
    return [str(name) for name in node.input[:count]]


def einsum_of(node: NodeProto) -> Einsum:
    """Returns what an Einsum says."""
    (equation,) = (a.s.decode() for a in node.attribute if a.name == "equation")
    return parse_einsum(equation)


def stored_tensors(graph: GraphProto) -> dict[str, TensorProto]:
    """Returns name -> stored tensor, those of Constant operators by their output's name."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return tensors


def origin(name: str, producers: dict[str, NodeProto]) -> str:
    """Returns what a value was made of, back through what casts, scales and turns it."""
    while name in producers and producers[name].op_type in _SAME_VALUES:
        name = producers[name].input[0]
    return name


def producers_of(graph: GraphProto) -> dict[str, NodeProto]:
    """Returns value -> the operator that computes it."""
    return {name: node for node in graph.node for name in node.output}


def _is_layer(node: NodeProto, images: set[str]) -> bool:
    activations = [name in images for name in factors(node)]
    if node.op_type in CONVOLUTIONS:
        return any(activations)
    if node.op_type == EINSUM:
        return any(einsum_of(node).products(activations))
    if node.op_type in RECURRENT:
        return activations[0]
    return node.op_type in PRODUCTS and activations[0] != activations[1]


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
