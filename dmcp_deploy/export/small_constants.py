"""Constants that the exporter's optimisation would take for 0 or 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper

#: What each operator leaves as it is by such a second operand.
_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
#: Wider than the optimisation's own tolerance: 1e-8 of 0 and 1e-5 of 1.
_NEAR = 1e-4
_NAME = "small_constant"


def optimized(program: Any) -> ModelProto:
    """Returns an exported program's graph, optimised with all its constants.

    The optimisation drops what it takes for an addition of 0 or a multiplication by 1: the
    epsilon of x / (norm + 1e-8), without which a flat image has no finite logits. So constants
    near these are inputs of the graph while it is optimised.

    Args:
        program: A `torch.onnx.ONNXProgram` that is not optimised yet.
    """
    values = _hide(program.model.graph)
    program.optimize()
    proto: ModelProto = program.model_proto
    kept = [value for value in proto.graph.input if value.name not in values]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    used = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in values.items() if name in used
    )
    return proto


def _hide(graph: Any) -> dict[str, np.ndarray]:
    """Makes small constants inputs of a graph; returns the values by the inputs' names."""
    import onnx_ir as ir

    values: dict[str, np.ndarray] = {}
    for node in graph:
        for place, operand in enumerate(node.inputs):
            array = _scalar(operand) if node.op_type in _NEUTRAL else None
            if array is None or not _is_small(array, _NEUTRAL[node.op_type]):
                continue
            name = f"{_NAME}_{len(values)}"
            values[name] = array
            hidden = ir.Value(name=name, type=operand.type, shape=ir.Shape(array.shape))
            hidden.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            graph.inputs.append(hidden)
            node.replace_input_with(place, hidden)
    return values


def _scalar(value: Any) -> np.ndarray | None:
    """Returns a stored floating-point number; None for any other value."""
    if value is None:
        return None
    tensor, made_by = value.const_value, value.producer()
    if tensor is None and made_by is not None and made_by.op_type == "Constant":
        attribute = made_by.attributes.get("value")
        tensor = None if attribute is None else attribute.value
    if tensor is None or tensor.size != 1:
        return None
    array = np.asarray(tensor.numpy())
    return array if array.dtype.kind == "f" else None


def _is_small(array: np.ndarray, neutral: float) -> bool:
    """Returns whether a number is near what leaves others as they are, and not just that."""
    return 0 < abs(float(array.item()) - neutral) < _NEAR
