"""Rules of operations that combine tensors: by elements, end to end, as matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from dmcp_deploy.network.call import Call, Value
from dmcp_deploy.network.channels import Channels, Ids
from dmcp_deploy.network.reshape import with_axis
from dmcp_deploy.network.rewrites import Count

#: Channels and shape of a tensor.
Operand = tuple[Value, Any]


def binary_rule(call: Call) -> Value:
    """Two operands, element by element: their channels are tied."""
    return _broadcast(call, [call.argument(0, "input"), call.argument(1, "other")])


def _broadcast(call: Call, operands: Sequence[object]) -> Channels | None:
    """Returns the channels of tensors, and numbers, that are combined element by element."""
    return _combined(call, [(call.channels(o), call.shape(o)) for o in operands if call.shape(o)])


def _combined(call: Call, operands: Sequence[Operand]) -> Channels | None:
    """Returns the channels of tensors whose shapes are broadcast, or those behind two axes."""
    ndim = len(call.node.meta["shape"])
    result: Channels | None = None
    for number, (value, shape) in enumerate(operands):
        if isinstance(value, Channels):
            others = [*operands[:number], *operands[number + 1 :]]
            mine = _kept_apart(call, value, ndim - len(shape), others)
            if mine is not None:
                result = mine if result is None else _tied(call, result, mine)
    return result


def _kept_apart(
    call: Call, value: Channels, shift: int, others: Sequence[Operand]
) -> Channels | None:
    """Returns an operand's channels along the result's axes; None where they got lost.

    What has no channels along an axis must have one element there; otherwise that axis of
    several does not narrow, or the only one is pinned.
    """
    ndim = len(call.node.meta["shape"])
    for theirs, shape in others:
        start = ndim - len(shape)
        taken = {a + start for a in theirs.axes} if isinstance(theirs, Channels) else set()
        value = call.ids.compact(value)
        for dim, axis in enumerate(a + shift for a in value.axes):
            if axis < start or axis in taken or shape[axis - start] == 1:
                continue
            if value.ids.ndim == 1:
                call.ids.pin(value, "combined with a tensor whose channels are unknown")
                return None
            call.ids.tie_along(value.ids, dim)
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


def elementwise_rule(call: Call) -> Value:
    """Several operands, element by element."""
    return _broadcast(call, call.node.all_input_nodes)


def expand_as_rule(call: Call) -> Value:
    """An operand that takes the shape of another."""
    return _broadcast(call, [call.operand, call.argument(1, "other")])


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
    operands = [call.argument(0, "input"), call.argument(1, "other")]
    ndim = len(call.node.meta["shape"])
    sums = [
        _narrows_at(call, operand, axis) for operand, axis in zip(operands, (-1, -2), strict=True)
    ]
    left = _matrices(call, operands[0], sums_over=-1 if sums[1] else None)
    right = _matrices(call, operands[1], sums_over=-2 if sums[0] else None)
    places = left.place, right.place
    if places == (1, 2):
        call.ids.tie(left.ids, right.ids)
        return None
    if places == (2, None):
        return Channels(left.ids, (ndim - 2,))
    if places == (None, 1):
        return Channels(right.ids, (ndim - 1,))
    return _by_batch(call, [left, right], "a matrix product of channels with other axes")


def linear_rule(call: Call) -> Value:
    """A product with a stored matrix, which narrows with the channels that it reads."""
    x, weight, bias = (call.argument(i, n) for i, n in enumerate(("input", "weight", "bias")))
    read, stored = (_or_none(call, operand) for operand in (x, weight))
    call.ids.pin(call.channels(bias), "a bias of its own")
    if stored is not None and 1 in stored.axes and stored.ids.ndim > 1:
        call.ids.tie_along(stored.ids, 0)
        stored = call.ids.compact(stored)
    if read is None and stored is None:
        return None
    last = len(call.shape(x)) - 1
    if read is None or stored is None or (read.axes, stored.axes) != ((last,), (1,)):
        call.pin_all("a matrix product of channels with other axes")
        return None
    call.ids.tie(read.ids, stored.ids)
    return None


def norm_rule(call: Call) -> Value:
    """A layer norm over the last axis: of all channels that are left, where they lie there."""
    x, sizes = call.operand, call.argument(1, "normalized_shape")
    value, last = _or_none(call, x), len(call.shape(x)) - 1
    factors = [call.argument(2, "weight"), call.argument(3, "bias")]
    written = isinstance(sizes, tuple | list) and len(sizes) == 1
    if not written or value is None or value.axes != (last,):
        over_others = written and value is not None and last not in value.axes
        call.ids.pin([call.channels(f) for f in factors], "a norm over other axes")
        call.ids.pin(None if over_others else value, "a layer norm over more than the channels")
        return value if over_others else None
    for factor in (factor for factor in factors if factor is not None):
        scale = _or_none(call, factor)
        if scale is None:
            call.ids.pin(value, "combined with a tensor whose channels are unknown")
            return None
        call.ids.tie(value.ids, scale.ids)
    if isinstance(sizes[0], int):
        call.rewrite({call.key(1, "normalized_shape"): [Count(value.ids)]})
    return value


def _or_none(call: Call, operand: object) -> Channels | None:
    value = call.channels(operand)
    return call.ids.compact(value) if isinstance(value, Channels) else None


def attention_rule(call: Call) -> Value:
    """Attention by heads: a head stays or goes as a whole; the channels of a single one narrow."""
    names = ("query", "key", "value", "attn_mask")
    nodes = [call.argument(place, name) for place, name in enumerate(names)]
    operands = [_matrices(call, node) for node in nodes if call.shape(node)]
    if [matrices.place for matrices in operands[:3]] == [1, 1, 1]:
        query, key, value = operands[:3]
        call.ids.tie(query.ids, key.ids)
        return Channels(value.ids, (len(call.node.meta["shape"]) - 1,))
    return _by_batch(call, operands, "an attention whose heads share it")


@dataclass(frozen=True)
class _Matrices:
    """An operand of a matrix product.

    Attributes:
        value: Its channels.
        shape: Its shape.
        place: Where they lie: 1 or 2 for the last axis or the one before, 0 further ahead.
    """

    value: Channels | None
    shape: Any
    place: int | None

    @property
    def ids(self) -> Ids:
        assert self.value is not None
        return self.value.ids


def _narrows_at(call: Call, operand: object, axis: int) -> bool:
    """Returns whether an operand has channels along one axis alone, counted from the end."""
    value = call.channels(operand)
    return isinstance(value, Channels) and value.axes == (len(call.shape(operand)) + axis,)


def _matrices(call: Call, operand: object, sums_over: int | None = None) -> _Matrices:
    """Returns an operand; of several axes only one in front of the last two may narrow.

    Args:
        call: The product.
        operand: One of its operands.
        sums_over: The axis, counted from the end, along which the other operand narrows.
    """
    value, shape = call.channels(operand), call.shape(operand) or ()
    if not isinstance(value, Channels):
        return _Matrices(None, shape, None)
    if value.ids.size == 1:
        call.ids.pin(value, "there is but one")
        return _Matrices(None, shape, None)
    if value.ids.ndim > 1:
        summed = None if sums_over is None else len(shape) + sums_over
        for dim, axis in enumerate(value.axes):
            if axis != summed and (axis >= len(shape) - 2 or summed in value.axes):
                call.ids.tie_along(value.ids, dim)
        value = call.ids.compact(value)
    behind = len(shape) - value.axes[-1]
    return _Matrices(value, shape, behind if behind <= 2 else 0)


def _by_batch(call: Call, operands: Sequence[_Matrices], reason: str) -> Channels | None:
    """Returns the channels along the axes in front; others are pinned, for that reason."""
    front: list[Operand] = []
    for operand in operands:
        if operand.place:
            call.ids.pin(operand.value, reason)
        front.append((None if operand.place else operand.value, (*operand.shape[:-2], 1, 1)))
    return _combined(call, front)
