"""Narrows an ONNX graph: stored tensors are cut to their leading parts, numbers set anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dmcp_deploy.artifact import atomic_path
from dmcp_deploy.onnxgraph.names import stored_tensors

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto

Array = npt.NDArray[np.generic]

#: What a number of a graph is: an axis of a stored tensor, an element of a stored shape, an
#: attribute of an operator, an axis of a value between two operators.
AXIS, ELEMENT, ATTRIBUTE, BETWEEN = "axis", "element", "attribute", "between"

#: Stored integers are shapes, splits and the like up to this many, and else indices.
_MOST_ELEMENTS = 64


@dataclass(frozen=True)
class Slot:
    """A place in a graph where a whole number stands.

    Attributes:
        kind: AXIS, ELEMENT, ATTRIBUTE or BETWEEN.
        name: The tensor, the value, or the operator's first output.
        place: The number's place among those of the tensor, value or attribute.
        attribute: The attribute's name; "" for other kinds.
    """

    kind: str
    name: str
    place: int
    attribute: str = ""


def read_numbers(model: ModelProto) -> dict[Slot, int]:
    """Returns all whole numbers of a graph that may change with the widths of its layers."""
    numbers: dict[Slot, int] = {}
    for name, tensor in stored_tensors(model.graph).items():
        numbers.update((Slot(AXIS, name, n), size) for n, size in enumerate(tensor.dims))
        if holds_counts(tensor):
            values = array_of(tensor).reshape(-1).tolist()
            numbers.update((Slot(ELEMENT, name, n), value) for n, value in enumerate(values))
    for name, attribute in _attributes(model.graph):
        values = _whole_numbers(attribute)
        slots = (Slot(ATTRIBUTE, name, n, attribute.name) for n in range(len(values)))
        numbers.update(zip(slots, values, strict=True))
    for value in _values(model.graph):
        sizes = [(n, dim.dim_value) for n, dim in enumerate(value.type.tensor_type.shape.dim)]
        numbers.update((Slot(BETWEEN, value.name, n), size) for n, size in sizes if size)
    return numbers


class NarrowableGraph:
    """A graph that narrower ones are made of, its stored tensors apart."""

    def __init__(self, model: ModelProto, forgotten: Iterable[str] = ()) -> None:
        """Takes the graph, and the values between operators whose shapes are to be forgotten."""
        unknown = set(forgotten)
        kept = [value for value in model.graph.value_info if value.name not in unknown]
        self._tensors = {tensor.name: array_of(tensor) for tensor in model.graph.initializer}
        self._bare = type(model)()
        self._bare.CopyFrom(model)
        del self._bare.graph.initializer[:], self._bare.graph.value_info[:]
        self._bare.graph.value_info.extend(kept)

    def at(self, numbers: Mapping[Slot, int]) -> ModelProto:
        """Returns the graph with other numbers; those that are not given stay.

        Args:
            numbers: What stands where; an axis of a stored tensor becomes no longer.
        """
        from onnx import numpy_helper

        axes, elements, attributes, between = (
            _by_name(numbers, kind) for kind in (AXIS, ELEMENT, ATTRIBUTE, BETWEEN)
        )
        model = type(self._bare)()
        model.CopyFrom(self._bare)
        for name, array in self._tensors.items():
            cut = _cut(array, axes.get(name, {}), elements.get(name, {}))
            model.graph.initializer.append(numpy_helper.from_array(cut, name))
        for name, attribute in _attributes(model.graph):
            for slot, number in attributes.get(name, {}).items():
                _set(attribute, slot, number)
            if attribute.HasField("t") and (name in axes or name in elements):
                cut = _cut(array_of(attribute.t), axes.get(name, {}), elements.get(name, {}))
                attribute.t.CopyFrom(numpy_helper.from_array(cut, attribute.t.name))
        for value in _values(model.graph):
            for slot, number in between.get(value.name, {}).items():
                value.type.tensor_type.shape.dim[slot.place].dim_value = number
        return model

    def write(self, numbers: Mapping[Slot, int], path: Path) -> None:
        """Writes the graph with other numbers, in one step.

        Raises:
            DmcpError: The file cannot be written.
        """
        with atomic_path(path) as part:
            part.write_bytes(self.at(numbers).SerializeToString(deterministic=True))


def holds_counts(tensor: TensorProto) -> bool:
    """Tells whether a stored tensor holds a shape or the like, and neither weights nor indices."""
    return holds_whole_numbers(tensor) and prod(tensor.dims) <= _MOST_ELEMENTS


def holds_whole_numbers(tensor: TensorProto) -> bool:
    """Tells whether a stored tensor is no weight."""
    from onnx import TensorProto

    return tensor.data_type in (TensorProto.INT64, TensorProto.INT32)


def array_of(tensor: TensorProto) -> Array:
    """Returns the elements of a stored tensor."""
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


def _attributes(graph: GraphProto) -> Iterator[tuple[str, AttributeProto]]:
    """Yields the attributes of all operators, each with its operator's first output."""
    for node in graph.node:
        for attribute in node.attribute:
            yield node.output[0], attribute


def _values(graph: GraphProto) -> Iterator[ValueInfoProto]:
    yield from (*graph.value_info, *graph.output)


def _whole_numbers(attribute: AttributeProto) -> list[int]:
    from onnx import AttributeProto

    if attribute.type == AttributeProto.INT:
        return [attribute.i]
    return list(attribute.ints) if attribute.type == AttributeProto.INTS else []


def _set(attribute: AttributeProto, slot: Slot, number: int) -> None:
    if attribute.name != slot.attribute:
        return
    if attribute.ints:
        attribute.ints[slot.place] = number
    else:
        attribute.i = number


def _by_name(numbers: Mapping[Slot, int], kind: str) -> dict[str, dict[Slot, int]]:
    named: dict[str, dict[Slot, int]] = {}
    for slot, number in numbers.items():
        if slot.kind == kind:
            named.setdefault(slot.name, {})[slot] = number
    return named


def _cut(array: Array, axes: Mapping[Slot, int], elements: Mapping[Slot, int]) -> Array:
    """Returns the leading part of an array, with some of its elements set."""
    sizes = {slot.place: size for slot, size in axes.items()}
    cuts = tuple(slice(sizes.get(axis, size)) for axis, size in enumerate(array.shape))
    part = np.asarray(array[cuts])  # a single number would be no array any more
    if not elements:
        return part
    changed = part.copy()
    for slot, number in elements.items():
        changed.reshape(-1)[slot.place] = number
    return changed
