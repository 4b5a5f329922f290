"""Rules of operations that combine tensors: by elements, end to end, as matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from dmcp_deploy.network.call import Call, Value
from dmcp_deploy.network.channels import Channels, Ids
from dmcp_deploy.network.reshape import with_axis


def binary_rule(call: Call) -> Value:
    """Two operands, element by element: their channels are tied."""
    operands = call.argument(0, "input"), call.argument(1, "other")
    return _broadcast(call, operands, len(call.node.meta["shape"]))


def _broadcast(call: Call, operands: Sequence[object], ndim: int) -> Value:
    """Returns the channels of tensors, and numbers, that are combined element by element."""
    known = [o for o in operands if isinstance(call.channels(o), Channels)]
    result: Channels | None = None
    for operand in known:
        mine = _kept_apart(call, operand, operands, ndim)
        if mine is not None:
            result = mine if result is None else _tied(call, result, mine)
    return result


def _kept_apart(
    call: Call, operand: object, others: Sequence[object], ndim: int
) -> Channels | None:
    """Returns an operand's channels along the result's axes; None where they got lost.

    What has no channels along an axis must have one element there; otherwise that axis of
    several does not narrow, or the only one is pinned.
    """
    value = call.channels(operand)
    shift = ndim - len(call.shape(operand))
    for other in others:
        if other is operand or not isinstance(other, fx.Node) or not call.shape(other):
            continue
        start = ndim - len(call.shape(other))
        theirs = call.channels(other)
        taken = {a + start for a in theirs.axes} if isinstance(theirs, Channels) else set()
        value = call.ids.compact(value)
        for dim, axis in enumerate(a + shift for a in value.axes):
            if axis < start or axis in taken or call.shape(other)[axis - start] == 1:
                continue
            if value.ids.ndim > 1:
                call.ids.tie_along(value.ids, dim)
            elif not call.adopt(other, axis - start, value.ids):
                call.ids.pin(value, "combined with a tensor whose channels are unknown")
                return None
    value = call.ids.compact(value)
    return Channels(value.ids, tuple(a + shift for a in value.axes))


def _tied(call: Call, left: Channels, right: Channels) -> Channels | None:
    """Returns the channels of two operands along the axes of their result."""
    left, right = (_along_shared(call, *pair) for pair in ((left, right), (right, left)))
    small, large = sorted((left, right), key=lambda value: value.ids.size)
    if left.axes != right.axes:
        call.ids.pin(small, "two operands have their channels on different axes")
        return large
    if left.ids.shape != right.ids.shape:
        call.ids.pin(small, "a single channel is broadcast over many")
        return large
    call.ids.tie(left.ids, right.ids)
    return left


def _along_shared(call: Call, x: Channels, other: Channels) -> Channels:
    """Returns channels of which only such axes are left that the other has too, if it has any."""
    if set(x.axes) & set(other.axes):
        for dim, axis in enumerate(x.axes):
            if axis not in other.axes:
                call.ids.tie_along(x.ids, dim)
    return call.ids.compact(x)


def addcmul_rule(call: Call) -> Value:
    """Several operands, element by element."""
    operands = [n for n in call.node.all_input_nodes if call.shape(n)]
    return _broadcast(call, operands, len(call.node.meta["shape"]))


def expand_as_rule(call: Call) -> Value:
    """An operand that takes the shape of another."""
    operands = call.operand, call.argument(1, "other")
    return _broadcast(call, operands, len(call.node.meta["shape"]))


def cat_rule(call: Call) -> Value:
    """Channels one behind the other; along another axis they are tied."""
    dim = call.argument(1, "dim", 0) % len(call.node.meta["shape"])
    values, shapes = _parts(call)
    known = [call.ids.compact(v) for v in values if isinstance(v, Channels)]
    if not known:
        return None
    axes = known[0].axes
    if any(v.axes != axes for v in known):
        call.ids.pin(known, "a concatenation of tensors with channels on different axes")
        return None
    if dim in axes and len(axes) == 1:
        parts = zip(values, shapes, strict=True)
        blocks = [_or_pinned(call, value, shape[dim]) for value, shape in parts]
        return Channels(np.concatenate(blocks), axes)
    if len(known) < len(values):
        call.ids.pin(known, "concatenated with a tensor whose channels are unknown")
        return None
    if dim in axes:
        return Channels(np.concatenate([v.ids for v in known], axes.index(dim)), axes)
    for value in known[1:]:
        call.ids.tie(known[0].ids, value.ids)
    return known[0]


def stack_rule(call: Call) -> Value:
    """A new axis, across which channels are tied."""
    values, _ = _parts(call)
    known = [call.ids.compact(v) for v in values if isinstance(v, Channels)]
    if not known:
        return None
    if len(known) < len(values) or any(v.axes != known[0].axes for v in known):
        call.ids.pin(known, "stacked with a tensor whose channels are unknown")
        return None
    for value in known[1:]:
        call.ids.tie(known[0].ids, value.ids)
    return with_axis(known[0], call.argument(1, "dim", 0) % len(call.node.meta["shape"]))


def _parts(call: Call) -> tuple[list[Value], Sequence[Any]]:
    """Returns channels and shapes of a list of tensors, or of one operation's many results."""
    parts = call.argument(0, "tensors")
    if isinstance(parts, fx.Node):
        shapes = call.shape(parts)
        return list(call.channels(parts) or [None] * len(shapes)), shapes
    return [call.channels(part) for part in parts], [call.shape(part) for part in parts]


def _or_pinned(call: Call, value: Value, size: int) -> Ids:
    if isinstance(value, Channels):
        return value.ids
    block = call.ids.fresh(size)
    call.ids.pin(Channels(block, (1,)), "its channels are unknown")
    return block


def matmul_rule(call: Call) -> Value:
    """Matrix products for every index of the axes in front; those alone narrow of several."""
    operands = call.argument(0, "input"), call.argument(1, "other")
    ndim = len(call.node.meta["shape"])
    left, right = (call.channels(operand) for operand in operands)
    places = [_matrix_place(call, operand) for operand in operands]
    if set(places) <= {None, 0}:
        return _broadcast(call, operands, ndim)
    if places == [1, 2]:
        call.ids.tie(left.ids, right.ids)
        return None
    if places == [2, None]:
        return Channels(left.ids, (ndim - 2,))
    if places == [None, 1]:
        return Channels(right.ids, (ndim - 1,))
    if places == [1, None] and call.adopt(operands[1], len(call.shape(operands[1])) - 2, left.ids):
        return None
    call.pin_all("a matrix product of channels with other axes")
    return None


def _matrix_place(call: Call, operand: object) -> int | None:
    """Returns the place of an operand's channels: axis 1 or 2 from the end, or 0 further ahead."""
    value, ndim = call.channels(operand), len(call.shape(operand) or ())
    if not isinstance(value, Channels):
        return None
    if value.ids.ndim > 1:
        for dim, axis in enumerate(value.axes):
            if axis >= ndim - 2:
                call.ids.tie_along(value.ids, dim)
        value = call.ids.compact(value)
    return max(ndim - value.axes[-1], 0) if value.axes[-1] >= ndim - 2 else 0


def attention_rule(call: Call) -> Value:
    """Attention by heads: a head stays or goes as a whole."""
    operands = [n for n in call.node.all_input_nodes if call.shape(n)]
    if {_matrix_place(call, operand) for operand in operands} <= {None, 0}:
        return _broadcast(call, operands, len(call.node.meta["shape"]))
    call.pin_all("an attention without heads")
    return None
