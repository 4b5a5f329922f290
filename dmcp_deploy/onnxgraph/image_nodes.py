"""Which values of a graph follow from the images, and which are known before the first one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto

#: Their outputs say how large an image is, not what is in it.
SHAPE_OPERATORS = frozenset({"Shape", "Size"})


def image_values(graph: GraphProto) -> set[str]:
    """Returns the names of the values that depend on the images' content.

    The others are stored, or sizes, scales and constants that are computed from these.
    """
    stored = {tensor.name for tensor in graph.initializer}
    values = {value.name for value in graph.input} - stored
    for node in graph.node:
        if node.op_type not in SHAPE_OPERATORS and not values.isdisjoint(node.input):
            values.update(node.output)
    return values


def reads_images(graph: GraphProto) -> list[bool]:
    """Returns for each node whether what it reads depends on the images' content.

    The others compute sizes, scales and constants, whose values must stay exact.
    """
    values = image_values(graph)
    return [not values.isdisjoint(node.input) for node in graph.node]
