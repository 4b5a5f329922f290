"""The operation table: function or tensor method -> what it does to the channels."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from dmcp_deploy.network.channels import ChannelIds, Channels, Ids
from dmcp_deploy.network.reshape import (
    Shape,
    chunk_channels,
    flatten_channels,
    index_channels,
    permute_channels,
    reshape_channels,
)

Value = Any  # Channels, None, or a list of them for an operation with several results.


@dataclass(frozen=True)
class Call:
    """One operation of the graph with what is known of its operands."""

    node: fx.Node
    ids: ChannelIds
    values: dict[fx.Node, Value]

    @property
    def operand(self) -> Any:
        """The first operand."""
        return self.argument(0, "input")

    def channels(self, operand: object) -> Value:
        """Returns the channels of an operand; None for constants and untracked tensors."""
        return self.values.get(operand) if isinstance(operand, fx.Node) else None

    def shape(self, operand: object) -> Any:
        """Returns the shape of an operand; None for what is no tensor."""
        return operand.meta["shape"] if isinstance(operand, fx.Node) else None

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """Returns an argument by position or name; "axis" is torch's other name for "dim"."""
        if place < len(self.node.args):
            return self.node.args[place]
        if name == "dim" and "axis" in self.node.kwargs:
            return self.node.kwargs["axis"]
        return self.node.kwargs.get(name, default)

    def rest(self, name: str) -> list[Any]:
        """Returns sizes or axes, written as one sequence or as arguments of their own."""
        rest = list(self.node.args[1:]) or [self.node.kwargs.get(name)]
        if len(rest) == 1 and isinstance(rest[0], tuple | list):
            return list(rest[0])
        return rest

    def pin_all(self, reason: str) -> None:
        """Keeps whole the channels of every operand."""
        for operand in self.node.all_input_nodes:
            self.ids.pin(self.channels(operand), reason)


def propagate(call: Call) -> Value:
    """Returns the channels of an operation's result.

    An operation that the table does not know pins whatever it reads.
    """
    node = call.node
    shape = node.meta["shape"]
    if shape is None:
        return None
    rule = _TABLE.get(node.target)
    if rule is None:
        call.pin_all(f"{operation_name(node)} is not in the layer table")
        return None
    result = rule(call)
    if fits(result, shape):
        return result
    call.pin_all(f"{operation_name(node)} is used in a way that the layer table does not know")
    return None


def result_shape(function: object, x: Tensor, others: Sequence[Any]) -> Shape | None:
    """Returns the shape of a function's result, or None where it has to be run to tell.

    Args:
        function: The function.
        x: Its first operand.
        others: Its other arguments.
    """
    if function is F.adaptive_avg_pool2d and x.ndim == 4:
        return _pooled_shape(x.shape, *others)
    tensors = [other for other in others if isinstance(other, Tensor)]
    alike = all(t.shape == x.shape and t.dtype == x.dtype for t in tensors)
    return x.shape if alike and function in _ELEMENTWISE else None


def fits(value: Value, shape: Any) -> bool:
    """Returns whether channels may be those of a tensor, or tensors, of a shape."""
    if value is None:
        return True
    if isinstance(value, Channels):
        axes = shape[value.axis : value.axis + value.ids.ndim]
        return bool(axes == value.ids.shape)
    return len(value) == len(shape) and all(map(fits, value, shape))


def operation_name(node: fx.Node) -> str:
    """Returns what an operation is called in messages."""
    return str(getattr(node.target, "__name__", node.target))


def _pooled_shape(shape: Shape, size: Any) -> Shape | None:
    height, width = (size, size) if isinstance(size, int) else size
    if not (isinstance(height, int) and isinstance(width, int)):
        return None
    return (*shape[:2], height, width)


def _same(call: Call) -> Value:
    tracked = [n for n in call.node.all_input_nodes if call.channels(n) is not None]
    if len(tracked) > 1:
        call.pin_all(f"{operation_name(call.node)} reads several tensors")
    return call.channels(call.operand)


def _spatial(call: Call) -> Value:
    value = call.channels(call.operand)
    if isinstance(value, Channels) and value.axis != 1:
        call.ids.pin(value, "a spatial operation runs over the channels")
        return None
    return value


def _cast(call: Call) -> Value:
    return call.channels(call.operand)


def _binary(call: Call) -> Value:
    left, right = call.argument(0, "input"), call.argument(1, "other")
    out_ndim = len(call.node.meta["shape"])
    a, b = _from_end(call, left), _from_end(call, right)
    if a is None or b is None:
        return _one_sided(call, left, right, out_ndim)
    if a[1] != b[1] or a[0].ndim != 1 or b[0].ndim != 1:
        return _pin_both(call, left, right, "two operands have their channels on different axes")
    axis = out_ndim - a[1]
    if a[0].size != b[0].size:
        small, large = (left, b) if a[0].size == 1 else (right, a)
        call.ids.pin(call.channels(small), "a single channel is broadcast over many")
        return Channels(large[0], axis)
    call.ids.tie(a[0], b[0])
    return Channels(a[0], axis)


def _from_end(call: Call, operand: object) -> tuple[Any, int] | None:
    channels, shape = call.channels(operand), call.shape(operand)
    if not isinstance(channels, Channels):
        return None
    return channels.ids, len(shape) - channels.axis


def _one_sided(call: Call, left: object, right: object, out_ndim: int) -> Value:
    """One operand is a number or an untracked tensor: fine if that broadcasts over channels."""
    known, other = (left, right) if call.channels(left) is not None else (right, left)
    tracked = _from_end(call, known)
    if tracked is None:
        return None
    from_end, shape = tracked[1], call.shape(other) or ()
    # Reversed, both shapes start at the axis that broadcasting aligns.
    aligned = shape[::-1][from_end - tracked[0].ndim : from_end]
    if any(size != 1 for size in aligned):
        return _pin_both(call, left, right, "combined with a tensor whose channels are unknown")
    return Channels(tracked[0], out_ndim - from_end)


def _pin_both(call: Call, left: object, right: object, reason: str) -> None:
    call.ids.pin(call.channels(left), reason)
    call.ids.pin(call.channels(right), reason)


def _cat(call: Call) -> Value:
    dim = call.argument(1, "dim", 0) % len(call.node.meta["shape"])
    values, shapes = _parts(call)
    known = [v for v in values if isinstance(v, Channels)]
    if not known:
        return None
    axis = known[0].axis
    if any(v.axis != axis or v.ids.ndim != 1 for v in known):
        call.ids.pin(known, "a concatenation of tensors with channels on different axes")
        return None
    if dim == axis:
        parts = zip(values, shapes, strict=True)
        blocks = [_or_pinned(call, value, shape[axis], axis) for value, shape in parts]
        return Channels(np.concatenate(blocks), axis)
    if len(known) < len(values):
        call.ids.pin(known, "concatenated with a tensor whose channels are unknown")
        return None
    for value in known[1:]:
        call.ids.tie(known[0].ids, value.ids)
    return known[0]


def _parts(call: Call) -> tuple[list[Value], Sequence[Any]]:
    """Returns channels and shapes of a list of tensors, or of one operation's many results."""
    parts = call.argument(0, "tensors")
    if isinstance(parts, fx.Node):
        shapes = call.shape(parts)
        return list(call.channels(parts) or [None] * len(shapes)), shapes
    return [call.channels(part) for part in parts], [call.shape(part) for part in parts]


def _or_pinned(call: Call, value: Value, size: int, axis: int) -> Ids:
    if isinstance(value, Channels):
        return value.ids
    block = call.ids.fresh(size)
    call.ids.pin(Channels(block, axis), "its channels are unknown")
    return block


def _flatten(call: Call) -> Value:
    x = call.operand
    start, end = call.argument(1, "start_dim", 0), call.argument(2, "end_dim", -1)
    return flatten_channels(call.ids, call.channels(x), call.shape(x), start, end)


def _reshape(call: Call) -> Value:
    x = call.operand
    sizes = call.rest("size" if "size" in call.node.kwargs else "shape")
    after = call.node.meta["shape"]
    return reshape_channels(call.ids, call.channels(x), call.shape(x), after, sizes)


def _permute(call: Call) -> Value:
    return permute_channels(call.ids, call.channels(call.operand), call.rest("dims"))


def _transpose(call: Call) -> Value:
    x = call.operand
    order = list(range(len(call.shape(x))))
    a, b = call.argument(1, "dim0") % len(order), call.argument(2, "dim1") % len(order)
    order[a], order[b] = b, a
    return permute_channels(call.ids, call.channels(x), order)


def _chunk(call: Call) -> Value:
    x, parts = call.operand, len(call.node.meta["shape"])
    axis = call.argument(2, "dim", 0) % len(call.shape(x))
    value = call.channels(x)
    if value is not None and call.argument(1, "chunks") != parts:
        call.ids.pin(value, "a split into unequal parts")
        return [None] * parts
    return chunk_channels(call.ids, value, parts, axis)


def _split(call: Call) -> Value:
    x = call.operand
    axis = call.argument(2, "dim", 0) % len(call.shape(x))
    value = call.channels(x)
    if isinstance(value, Channels) and value.axis == axis:
        call.ids.pin(value, "a split writes the number of channels down as a constant")
        value = None
    return [value] * len(call.node.meta["shape"])


def _getitem(call: Call) -> Value:
    source, index = call.node.args
    value = call.channels(source)
    if not isinstance(value, list):
        return index_channels(call.ids, value, call.shape(source), index)
    if isinstance(index, int | slice):
        return value[index]
    call.pin_all("an index is computed while the network runs")
    return None


def _mean(call: Call) -> Value:
    x = call.operand
    value, ndim = call.channels(x), len(call.shape(x))
    dims = call.argument(1, "dim")
    if not isinstance(value, Channels):
        return None
    axes = range(ndim) if dims is None else [dims] if isinstance(dims, int) else dims
    reduced = {a % ndim for a in axes}
    if reduced & set(range(value.axis, value.axis + value.ids.ndim)):
        call.ids.pin(value, "a reduction runs over the channels")
        return None
    if call.argument(2, "keepdim", False):
        return value
    return Channels(value.ids, value.axis - sum(a < value.axis for a in reduced))


def _unsqueeze(call: Call) -> Value:
    value = call.channels(call.operand)
    if not isinstance(value, Channels):
        return None
    axis = call.argument(1, "dim") % len(call.node.meta["shape"])
    return Channels(value.ids, value.axis + (axis <= value.axis))


def _squeeze(call: Call) -> Value:
    x = call.operand
    value, shape = call.channels(x), call.shape(x)
    if not isinstance(value, Channels):
        return None
    dims = call.argument(1, "dim")
    axes = range(len(shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = [a for a in {a % len(shape) for a in axes} if shape[a] == 1]
    if value.axis in gone:
        call.ids.pin(value, "a squeeze drops the channel axis")
        return None
    return Channels(value.ids, value.axis - sum(a < value.axis for a in gone))


def _pad(call: Call) -> Value:
    x = call.operand
    value, pads = call.channels(x), call.argument(1, "pad")
    if not isinstance(value, Channels):
        return None
    if isinstance(pads, fx.Node):
        call.ids.pin(value, "padding is computed as a whole while the network runs")
        return None
    spatial = len(call.shape(x)) - value.axis - value.ids.ndim
    if len(pads) > 2 * spatial:
        call.ids.pin(value, "padding adds channels")
        return None
    return value


_SAME = (
    *(F.relu, F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.silu, F.gelu, F.sigmoid, F.tanh),
    *(F.leaky_relu, F.elu, F.selu, F.celu, F.mish, F.softplus, F.dropout, F.dropout2d),
    *(torch.relu, torch.sigmoid, torch.tanh, torch.clone, torch.clamp, torch.abs, torch.sqrt),
    *(torch.exp, operator.neg, torch.neg, torch.square),
    *("relu", "relu_", "sigmoid", "sigmoid_", "tanh", "contiguous", "clone", "detach", "clamp"),
    *("clamp_", "abs", "neg", "exp", "hardtanh_", "sqrt", "square"),
)
_SPATIAL = (
    *(F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.avg_pool2d, F.max_pool2d, F.interpolate),
)
_CASTS = ("float", "double", "half", "bfloat16", "to", "type", "type_as")
_BINARY = (
    *(operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul),
    *(operator.truediv, operator.pow, torch.add, torch.sub, torch.mul, torch.multiply, torch.div),
    *(torch.pow, torch.maximum, torch.minimum),
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "pow", "maximum", "minimum"),
)
#: Functions that keep their first operand's shape where all other tensors have it too.
_ELEMENTWISE = frozenset(operation for operation in (*_SAME, *_BINARY) if callable(operation))
_TABLE: dict[Any, Callable[[Call], Value]] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_SPATIAL, _spatial),
    **dict.fromkeys(_CASTS, _cast),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _cat),
    **dict.fromkeys((torch.flatten, "flatten"), _flatten),
    **dict.fromkeys((torch.reshape, "reshape", "view"), _reshape),
    **dict.fromkeys((torch.permute, "permute"), _permute),
    **dict.fromkeys((torch.transpose, "transpose"), _transpose),
    **dict.fromkeys((torch.chunk, "chunk"), _chunk),
    **dict.fromkeys((torch.split, "split"), _split),
    **dict.fromkeys((torch.mean, "mean", torch.sum, "sum"), _mean),
    **dict.fromkeys((torch.unsqueeze, "unsqueeze"), _unsqueeze),
    **dict.fromkeys((torch.squeeze, "squeeze"), _squeeze),
    F.pad: _pad,
    operator.getitem: _getitem,
}
