"""A graph in FP32 rewritten in half precision, casts where the two meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from dmcp_deploy.export.half_types import HalfType, half_tensor, raised_constant
from dmcp_deploy.onnxgraph.image_nodes import SHAPE_OPERATORS, reads_images

#: What a small number is added in, or bounds from below, to keep a quotient finite.
_GUARDS = frozenset({"Add", "Clip", "Max", "Sub"})
#: The schema allows them in half precision; runtimes read them on the host, as float32.
_KEPT_PARAMETERS = {("Resize", "T2"), ("Upsample", "T2")}


@dataclass(frozen=True)
class KeptNode:
    """An operator that still computes in FP32.

    Attributes:
        name: Its name, or its first output's.
        operator: Its type.
        reason: Why it was kept.
    """

    name: str
    operator: str
    reason: str


@dataclass
class HalfGraph:
    """Rewrites one graph in place.

    Attributes:
        graph: The graph; its nodes are in topological order, before and after.
        types: Element type of each of its tensors in FP32.
        half: The type to convert to.
        opset: Which schemas hold.
    """

    graph: GraphProto
    types: Mapping[str, int]
    half: HalfType
    opset: int
    converted: list[str] = field(default_factory=list)
    kept: list[KeptNode] = field(default_factory=list)
    flushed_weights: int = 0
    #: Epsilons too small for the type -> what they are in its stead.
    raised: dict[str, float] = field(default_factory=dict)
    #: Names of tensors that are computed in the half type.
    _in_half: set[str] = field(default_factory=set)
    #: (name in the source, in half?) -> name of the tensor that holds it so.
    _forms: dict[tuple[str, bool], str] = field(default_factory=dict)
    _nodes: list[NodeProto] = field(default_factory=list)

    def run(self) -> None:
        """Converts the graph."""
        _lift_constants(self.graph)
        wanted = self._plan()
        self._convert_constants(wanted)
        self._name_outputs()
        for node, halves in zip(self.graph.node, wanted, strict=True):
            for index, in_half in halves.items():
                node.input[index] = self._form(node.input[index], in_half)
            for index, name in enumerate(node.output):
                node.output[index] = self._forms.get((name, name in self._in_half), name)
            self._nodes.append(node)
        for output in self.graph.output:
            self._form(output.name, False)
        del self.graph.node[:]
        self.graph.node.extend(self._nodes)
        self._retype_values()

    def _plan(self) -> list[dict[int, bool]]:
        """Returns for each node: index of a float input -> whether it shall be in half."""
        plan = []
        for node, reads in zip(self.graph.node, reads_images(self.graph), strict=True):
            if reads:
                allowed, why = self._half_parameters(node)
            else:
                allowed, why = set(), "it computes shapes or constants, not images"
            plan.append(self._decide(node, allowed, why))
        return plan

    def _half_parameters(self, node: NodeProto) -> tuple[set[str], str]:
        """Returns the type parameters of a node's schema that may be half, or why there is none."""
        if not onnx.defs.has(node.op_type, self.opset, node.domain):
            return set(), f"no schema says whether {node.op_type} takes {self.half.name}"
        schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        allowed = {
            item.type_param_str
            for item in schema.type_constraints
            if self.half.schema_type in item.allowed_type_strs
            and (node.op_type, item.type_param_str) not in _KEPT_PARAMETERS
        }
        return allowed, f"{node.op_type} of opset {schema.since_version} takes no {self.half.name}"

    def _decide(self, node: NodeProto, allowed: set[str], why: str) -> dict[int, bool]:
        """Notes the type of a node's outputs, and returns that of its float inputs."""
        schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain) if allowed else None
        inputs = _parameters(schema.inputs if schema else (), node.input)
        outputs = _parameters(schema.outputs if schema else (), node.output)
        floats = [i for i, name in enumerate(node.input) if self._is_float(name)]
        halves = {index: inputs[index] in allowed for index in floats}
        bound = {inputs[index] for index, in_half in halves.items() if in_half}
        if allowed and (target := _float_cast(node)) is not None:
            bound.add(outputs[0])
            target.i = self.half.element_type
        results = [
            name
            for name, parameter in zip(node.output, outputs, strict=True)
            if self._is_float(name) and parameter in bound & allowed
        ]
        self._in_half.update(results)
        if node.op_type in SHAPE_OPERATORS:
            return halves
        if results or any(halves.values()):
            self.converted.append(node_label(node))
        elif floats or any(map(self._is_float, node.output)):
            self.kept.append(KeptNode(node_label(node), node.op_type, why))
        return halves

    def _convert_constants(self, plan: list[dict[int, bool]]) -> None:
        """Converts the weights that are read in half; one that is read in both types is copied."""
        uses: dict[str, set[bool]] = {output.name: {False} for output in self.graph.output}
        values: set[str] = set()
        bounds: set[str] = set()
        readers: dict[str, set[str]] = {}
        for node, halves in zip(self.graph.node, plan, strict=True):
            for index, in_half in halves.items():
                uses.setdefault(node.input[index], set()).add(in_half)
                readers.setdefault(node.input[index], set()).add(node.op_type)
                is_bound = node.op_type == "Clip" and index > 0
                (bounds if is_bound else values).add(node.input[index])
        for tensor in list(self.graph.initializer):
            if True not in uses.get(tensor.name, ()):
                continue
            # A bound beyond the type's range would not be reached: the largest value serves.
            saturate = tensor.name in bounds - values
            self._raise_epsilon(tensor, readers[tensor.name])
            converted, flushed = half_tensor(tensor, self.half, saturate=saturate)
            self.flushed_weights += flushed
            self._place(tensor, converted, is_only_form=uses[tensor.name] == {True})
        # Old versions list weights among the inputs, where they would need the new type too.
        weights = {tensor.name for tensor in self.graph.initializer}
        inputs = [value for value in self.graph.input if value.name not in weights]
        del self.graph.input[:]
        self.graph.input.extend(inputs)

    def _raise_epsilon(self, tensor: TensorProto, readers: set[str]) -> None:
        value = raised_constant(tensor, self.half) if readers <= _GUARDS else None
        if value is not None:
            self.raised[tensor.name] = value
            array = np.full(tuple(tensor.dims), value, dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    def _place(self, tensor: TensorProto, converted: TensorProto, *, is_only_form: bool) -> None:
        name = tensor.name
        if is_only_form:
            tensor.CopyFrom(converted)
            self._in_half.add(name)
            return
        converted.name = self._forms[name, True] = self._free_name(name, True)
        self.graph.initializer.append(converted)

    def _name_outputs(self) -> None:
        """Leaves the names of outputs to their float32 form."""
        for output in self.graph.output:
            if output.name in self._in_half:
                self._forms[output.name, True] = self._free_name(output.name, True)

    def _form(self, name: str, in_half: bool) -> str:
        """Returns the name of a tensor in one type; casts it there where it first is needed."""
        is_half = name in self._in_half
        if is_half == in_half:
            return self._forms.get((name, in_half), name)
        if (name, in_half) not in self._forms:
            is_output = not in_half and any(name == output.name for output in self.graph.output)
            cast = name if is_output else self._free_name(name, in_half)
            self._forms[name, in_half] = cast
            to = self.half.element_type if in_half else TensorProto.FLOAT
            given = self._forms.get((name, is_half), name)
            self._nodes.append(
                helper.make_node("Cast", [given], [cast], name=f"cast_{cast}", to=to)
            )
        return self._forms[name, in_half]

    def _retype_values(self) -> None:
        for value in self.graph.value_info:
            if value.name in self._in_half:
                value.type.tensor_type.elem_type = self.half.element_type
                value.name = self._forms.get((value.name, True), value.name)

    def _free_name(self, name: str, in_half: bool) -> str:
        taken = {*self.types, *self._forms.values()}
        free = f"{name}_{self.half.name if in_half else 'fp32'}"
        while free in taken:
            free += "_"
        return free

    def _is_float(self, name: str) -> bool:
        return self.types.get(name) == TensorProto.FLOAT


def _lift_constants(graph: GraphProto) -> None:
    """Turns Constant nodes of float32 into initializers, so that there is one kind of weight."""
    others = []
    for node in graph.node:
        tensor = _constant_value(node) if node.op_type == "Constant" else None
        if tensor is None:
            others.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(others)


def _constant_value(node: NodeProto) -> TensorProto | None:
    value = node.attribute[0]
    if value.name == "value" and value.t.data_type == TensorProto.FLOAT:
        return numpy_helper.from_array(numpy_helper.to_array(value.t))
    if value.name in ("value_float", "value_floats"):
        return numpy_helper.from_array(np.array(helper.get_attribute_value(value), np.float32))
    return None


def _parameters(
    formal: Iterable[onnx.defs.OpSchema.FormalParameter], names: Iterable[str]
) -> list[str]:
    """Returns the schema's type of each of a node's inputs or outputs; "" without a schema."""
    types = [parameter.type_str for parameter in formal] or [""]
    # The last parameter of a variadic operator stands for all further ones.
    return [types[min(index, len(types) - 1)] for index, _ in enumerate(names)]


def _float_cast(node: NodeProto) -> AttributeProto | None:
    """Returns the attribute by which a node casts to float32; None if it does not."""
    targets = (a for a in node.attribute if a.name == "to" and a.i == TensorProto.FLOAT)
    return next(targets, None) if node.op_type == "Cast" else None


def node_label(node: NodeProto) -> str:
    """Returns the name of a node, or its first output's where it has none."""
    return node.name or next(iter(node.output), node.op_type)
