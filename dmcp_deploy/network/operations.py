"""The operation table: function or tensor method -> what it does to the channels."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx

from dmcp_deploy.network.channels import ChannelIds, Channels
from dmcp_deploy.network.reshape import (
    chunk_channels,
    flatten_channels,
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

    def channels(self, operand: object) -> Value:
        """Returns the channels of an operand; None for constants and untracked tensors."""
        return self.values.get(operand) if isinstance(operand, fx.Node) else None

    def shape(self, operand: object) -> Any:
        """Returns the shape of an operand; None for what is no tensor."""
        return operand.meta["shape"] if isinstance(operand, fx.Node) else None

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """Returns an argument by position or name."""
        if place < len(self.node.args):
            return self.node.args[place]
        return self.node.kwargs.get(name, default)

    def rest(self, name: str) -> list[Any]:
        """Returns sizes or axes, written as one sequence or as arguments of their own."""
        rest = list(self.node.args[1:]) or [self.node.kwargs.get(name)]
        if len(rest) == 1 and isinstance(rest[0], tuple | list):
            return list(rest[0])
        return rest


def propagate(call: Call) -> Value:
    """Returns the channels of an operation's result.

    An operation that the table does not know pins whatever it reads.
    """
    node = call.node
    if node.meta["shape"] is None:
        return None
    rule = _TABLE.get(node.target)
    if rule is not None:
        return rule(call)
    for operand in node.all_input_nodes:
        call.ids.pin(call.channels(operand), f"{operation_name(node)} is not in the layer table")
    return None


def operation_name(node: fx.Node) -> str:
    """Returns what an operation is called in messages."""
    return str(getattr(node.target, "__name__", node.target))


def _same(call: Call) -> Value:
    return call.channels(call.node.args[0] if call.node.args else call.node.kwargs["input"])


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
    if len(shape) >= from_end and shape[len(shape) - from_end] != 1:
        return _pin_both(call, left, right, "combined with a tensor whose channels are unknown")
    return Channels(tracked[0], out_ndim - from_end)


def _pin_both(call: Call, left: object, right: object, reason: str) -> None:
    call.ids.pin(call.channels(left), reason)
    call.ids.pin(call.channels(right), reason)


def _cat(call: Call) -> Value:
    parts = call.argument(0, "tensors")
    ndim = len(call.node.meta["shape"])
    dim = call.argument(1, "dim", 0) % ndim
    values = [call.channels(part) for part in parts]
    known = [v for v in values if isinstance(v, Channels)]
    if not known:
        return None
    axis = known[0].axis
    if any(v.axis != axis or v.ids.ndim != 1 for v in known):
        call.ids.pin(known, "a concatenation of tensors with channels on different axes")
        return None
    if dim == axis:
        blocks = [_or_pinned(call, v, part, axis) for v, part in zip(values, parts, strict=True)]
        return Channels(np.concatenate(blocks), axis)
    if len(known) < len(values):
        call.ids.pin(known, "concatenated with a tensor whose channels are unknown")
        return None
    for value in known[1:]:
        call.ids.tie(known[0].ids, value.ids)
    return known[0]


def _or_pinned(call: Call, value: Value, part: fx.Node, axis: int) -> Any:
    if isinstance(value, Channels):
        return value.ids
    block = call.ids.fresh(call.shape(part)[axis])
    call.ids.pin(Channels(block, axis), "its channels are unknown")
    return block


def _flatten(call: Call) -> Value:
    x = call.node.args[0]
    start, end = call.argument(1, "start_dim", 0), call.argument(2, "end_dim", -1)
    return flatten_channels(call.ids, call.channels(x), call.shape(x), start, end)


def _reshape(call: Call) -> Value:
    x = call.node.args[0]
    sizes = call.rest("shape")
    return reshape_channels(
        call.ids, call.channels(x), call.shape(x), call.node.meta["shape"], sizes
    )


def _permute(call: Call) -> Value:
    return permute_channels(call.ids, call.channels(call.node.args[0]), call.rest("dims"))


def _transpose(call: Call) -> Value:
    x = call.node.args[0]
    order = list(range(len(call.shape(x))))
    a, b = call.argument(1, "dim0") % len(order), call.argument(2, "dim1") % len(order)
    order[a], order[b] = b, a
    return permute_channels(call.ids, call.channels(x), order)


def _chunk(call: Call) -> Value:
    x = call.node.args[0]
    axis = call.argument(2, "dim", 0) % len(call.shape(x))
    return chunk_channels(call.ids, call.channels(x), len(call.node.meta["shape"]), axis)


def _split(call: Call) -> Value:
    x = call.node.args[0]
    axis = call.argument(2, "dim", 0) % len(call.shape(x))
    value = call.channels(x)
    if isinstance(value, Channels) and value.axis == axis:
        call.ids.pin(value, "a split writes the number of channels down as a constant")
        value = None
    return [value] * len(call.node.meta["shape"])


def _getitem(call: Call) -> Value:
    source, index = call.node.args
    value = call.channels(source)
    if isinstance(value, list):
        assert isinstance(index, int)
        return value[index]
    if not isinstance(value, Channels):
        return None
    entries = list(index) if isinstance(index, tuple) else [index]
    leading = entries[: value.axis + value.ids.ndim]
    plain = all(isinstance(e, slice) and e == slice(None) for e in leading)
    if len(leading) == value.axis + value.ids.ndim and not plain:
        call.ids.pin(value, "an index picks channels by number")
        return None
    if not plain or any(e is Ellipsis for e in entries):
        call.ids.pin(value, "an index moves the channel axis")
        return None
    return value


def _mean(call: Call) -> Value:
    x = call.node.args[0]
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
    value = call.channels(call.node.args[0])
    if not isinstance(value, Channels):
        return None
    axis = call.argument(1, "dim") % len(call.node.meta["shape"])
    return Channels(value.ids, value.axis + (axis <= value.axis))


def _squeeze(call: Call) -> Value:
    x = call.node.args[0]
    value, shape = call.channels(x), call.shape(x)
    if not isinstance(value, Channels):
        return None
    dims = call.argument(1, "dim")
    axes = [i for i, n in enumerate(shape) if n == 1] if dims is None else [dims % len(shape)]
    gone = [a for a in axes if shape[a] == 1]
    if value.axis in gone:
        call.ids.pin(value, "a squeeze drops the channel axis")
        return None
    return Channels(value.ids, value.axis - sum(a < value.axis for a in gone))


def _pad(call: Call) -> Value:
    x = call.node.args[0]
    value, pads = call.channels(x), call.argument(1, "pad")
    if not isinstance(value, Channels):
        return None
    spatial = len(call.shape(x)) - value.axis - value.ids.ndim
    if len(pads) > 2 * spatial:
        call.ids.pin(value, "padding adds channels")
        return None
    return value


_SAME = (
    *(F.relu, F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.silu, F.gelu, F.sigmoid, F.tanh),
    *(F.leaky_relu, F.elu, F.selu, F.celu, F.mish, F.softplus, F.dropout, F.dropout2d),
    *(F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.avg_pool2d, F.max_pool2d, F.interpolate),
    *(torch.relu, torch.sigmoid, torch.tanh, torch.clone, torch.clamp, torch.abs, torch.sqrt),
    *(torch.exp, operator.neg, torch.neg),
    *("relu", "relu_", "sigmoid", "sigmoid_", "tanh", "contiguous", "clone", "float", "half"),
    *("bfloat16", "to", "type", "type_as", "detach", "clamp", "clamp_", "abs", "neg", "exp"),
    *("hardtanh_"),
)
_BINARY = (
    *(operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul),
    *(operator.truediv, torch.add, torch.sub, torch.mul, torch.multiply, torch.div),
    *(torch.maximum, torch.minimum),
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "maximum", "minimum"),
)
_TABLE: dict[Any, Callable[[Call], Value]] = {
    **dict.fromkeys(_SAME, _same),
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
