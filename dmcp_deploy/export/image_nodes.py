"""Which operators of a graph compute on images, and which on shapes and constants."""

from __future__ import annotations

from onnx import GraphProto

#: Their outputs say how large an image is, not what is in it.
SHAPE_OPERATORS = frozenset({"Shape", "Size"})


def reads_images(graph: GraphProto) -> list[bool]:
    """Returns for each node whether what it reads depends on the images' content.

    The others compute sizes, scales and constants, whose values must stay exact.
    """
    constants = {tensor.name for tensor in graph.initializer}
    from_images = {value.name for value in graph.input} - constants
    reading = []
    for node in graph.node:
        reads = not from_images.isdisjoint(node.input)
        reading.append(reads)
        if reads and node.op_type not in SHAPE_OPERATORS:
            from_images.update(node.output)
    return reading
