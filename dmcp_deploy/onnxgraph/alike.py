"""ONNX graphs of one network at different widths: the same operators under the same names."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.names import stored_tensors
from dmcp_deploy.onnxgraph.narrowing import (
    BETWEEN,
    array_of,
    holds_counts,
    holds_whole_numbers,
    read_numbers,
)

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


class UnlikeError(DmcpError):
    """Two graphs differ in more than numbers."""


def unshared(model: ModelProto) -> ModelProto:
    """Returns a graph in which each operator has stored shapes of its own.

    The exporter stores equal ones once, and at other widths they may not be equal.
    """
    graph = type(model)()
    graph.CopyFrom(model)
    counts = {tensor.name: tensor for tensor in model.graph.initializer if holds_counts(tensor)}
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    uses: Counter[str] = Counter()
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            uses[name] += 1
            if name in counts and uses[name] > 1:
                node.input[place] = _free(f"{name}_{uses[name]}", taken)
                copied = graph.graph.initializer.add()
                copied.CopyFrom(counts[name])
                copied.name = node.input[place]
    return graph


def renamed(model: ModelProto, like: ModelProto) -> ModelProto:
    """Returns a graph under the names of another that has the same operators in the same order.

    Args:
        model: The graph, its stored shapes unshared.
        like: The other, whose are unshared too.

    Raises:
        UnlikeError: Their operators differ, or read one another in another way.
    """
    names = _names(model, like)
    graph = type(model)()
    graph.CopyFrom(model)
    del graph.graph.node[:], graph.graph.initializer[:], graph.graph.value_info[:]
    graph.graph.node.extend(like.graph.node)
    for node, own in zip(graph.graph.node, model.graph.node, strict=True):
        del node.attribute[:]
        node.attribute.extend(own.attribute)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    between = {value.name: value for value in model.graph.value_info}
    for theirs, ours in names.items():
        if ours in stored:
            graph.graph.initializer.add().CopyFrom(stored[ours])
            graph.graph.initializer[-1].name = theirs
        if ours in between:
            graph.graph.value_info.add().CopyFrom(between[ours])
            graph.graph.value_info[-1].name = theirs
    return graph


def check_same(one: ModelProto, other: ModelProto) -> None:
    """Checks that two graphs of the same names are the same, weights apart.

    Shapes of values between operators count where both graphs tell them.

    Raises:
        UnlikeError: A number, or a stored index, differs.
    """
    ours, theirs = read_numbers(one), read_numbers(other)
    for slot in {**ours, **theirs}:
        number, wanted = ours.get(slot), theirs.get(slot)
        if number != wanted and (slot.kind != BETWEEN or None not in (number, wanted)):
            raise UnlikeError(
                f"{slot.name} of the network's graph does not follow from its widths: it has"
                f" {number} where {wanted} is exported."
            )
    stored = stored_tensors(one.graph)
    for name, tensor in stored_tensors(other.graph).items():
        if not holds_whole_numbers(tensor):
            continue
        if array_of(stored[name]).tolist() != array_of(tensor).tolist():
            raise UnlikeError(f"The indices {name} of the network's graph change with its widths.")


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _names(model: ModelProto, like: ModelProto) -> dict[str, str]:
    """Returns name in the other graph -> name in the graph."""
    ends = [(*m.graph.input, *m.graph.output) for m in (like, model)]
    if [value.name for value in ends[0]] != [value.name for value in ends[1]]:
        raise UnlikeError("The network's graph has other inputs or outputs at other widths.")
    if len(model.graph.node) != len(like.graph.node):
        raise UnlikeError(
            f"The network's graph has {len(like.graph.node)} operators, and"
            f" {len(model.graph.node)} at other widths."
        )
    names: dict[str, str] = {}
    for theirs, ours in zip(like.graph.node, model.graph.node, strict=True):
        if _kind(theirs) != _kind(ours):
            raise _differing(theirs)
        ends_of_both = zip(
            (*theirs.input, *theirs.output), (*ours.input, *ours.output), strict=True
        )
        for their_name, our_name in ends_of_both:
            if names.setdefault(their_name, our_name) != our_name:
                raise _differing(theirs)
    return names


def _kind(node: NodeProto) -> tuple[object, ...]:
    attributes = sorted((attribute.name, attribute.type) for attribute in node.attribute)
    present = tuple(map(bool, node.input))
    return node.domain, node.op_type, present, len(node.output), tuple(attributes)


def _differing(node: NodeProto) -> UnlikeError:
    return UnlikeError(
        f"The network's graph is another at other widths, from its {node.op_type}"
        f" {node.output[0]!r} on."
    )
