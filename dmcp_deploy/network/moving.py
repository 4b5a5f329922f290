"""Rules of operations that move, cut and count channels: reshapes, splits, indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx

from dmcp_deploy.network.call import Call, Value, fits
from dmcp_deploy.network.channels import Channels
from dmcp_deploy.network.reshape import (
    index_entries,
    part_of,
    parts_along,
    permute_channels,
    reshape_channels,
    with_axis,
    without_axis,
)
from dmcp_deploy.network.rewrites import WRITTEN, Count


def flatten_rule(call: Call) -> Value:
    """Several axes that become one."""
    x = call.operand
    if call.channels(x) is None:
        return None
    return reshape_channels(call.ids, call.channels(x), call.shape(x), call.node.meta["shape"])


def reshape_rule(call: Call) -> Value:
    """A view or reshape; sizes that are written down count channels from now on."""
    x, after = call.operand, call.node.meta["shape"]
    if call.channels(x) is None:
        return None
    sizes = call.rest("size" if "size" in call.node.kwargs else "shape")
    # One size may stand for all of them: that of another tensor.
    inferred = [not isinstance(size, int) or size == -1 for size in sizes]
    if len(sizes) < len(after):
        inferred = [True] * len(after)
    before = call.shape(x)
    value = reshape_channels(call.ids, call.channels(x), before, after, inferred)
    if value is not None:
        _count_sizes(call, value, sizes, len(after))
    return value


def expand_rule(call: Call) -> Value:
    """New axes in front, and single elements that are repeated: never channels."""
    value, shape = call.channels(call.operand), call.node.meta["shape"]
    if not isinstance(value, Channels):
        return None
    shift = len(shape) - len(call.shape(call.operand))
    moved = Channels(value.ids, tuple(a + shift for a in value.axes))
    if not fits(moved, shape):
        call.ids.pin(value, "a single channel is broadcast over many")
        return None
    _count_sizes(call, moved, call.rest("size"), len(shape))
    return moved


def _count_sizes(call: Call, value: Channels, sizes: Sequence[Any], ndim: int) -> None:
    """Takes note of the sizes of a reshape or an expansion that are numbers of channels."""
    counts = {axis: Count(value.ids, dim) for dim, axis in enumerate(value.axes)}
    has_all = len(sizes) == ndim
    if 0 in counts and not (has_all and isinstance(sizes[0], int)):
        counts[0] = replace(counts[0], batched=True)
    template = [counts.get(a, WRITTEN) for a in range(ndim)]
    if has_all:
        pairs = zip(template, sizes, strict=True)
        template = [WRITTEN if size == -1 else count for count, size in pairs]
    if len(call.node.args) > 2:
        arguments: dict[int | str, Any] = {1 + a: count for a, count in enumerate(template)}
    else:
        arguments = {call.key(1, "size", "shape"): template}
        if has_all and len(call.node.args) == 2 and not isinstance(call.node.args[1], tuple | list):
            arguments = {1: template[0]}
    call.rewrite(arguments)


def permute_rule(call: Call) -> Value:
    """Axes in another order."""
    value = call.channels(call.operand)
    return None if value is None else permute_channels(value, call.rest("dims"))


def transpose_rule(call: Call) -> Value:
    """Two axes that change places."""
    x = call.operand
    if call.channels(x) is None:
        return None
    order = list(range(len(call.shape(x))))
    a, b = call.argument(1, "dim0") % len(order), call.argument(2, "dim1") % len(order)
    order[a], order[b] = b, a
    return permute_channels(call.channels(x), order)


def movedim_rule(call: Call) -> Value:
    """Axes that move to other places, the rest in order."""
    ndim = len(call.shape(call.operand))
    ends = [call.argument(place, name) for place, name in ((1, "source"), (2, "destination"))]
    sources, places = ([a % ndim for a in ([e] if isinstance(e, int) else e)] for e in ends)
    order = [axis for axis in range(ndim) if axis not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        order.insert(place, axis)
    value = call.channels(call.operand)
    return None if value is None else permute_channels(value, order)


def shuffle_rule(call: Call) -> Value:
    """Pixels made of channels: those of a block go as one."""
    value, side = _along_channels(call), call.argument(1, "upscale_factor")
    if value is None:
        return None
    blocks = value.ids.reshape(-1, side**2)
    call.ids.tie_rows(blocks)
    return Channels(blocks[:, 0], value.axes)


def unshuffle_rule(call: Call) -> Value:
    """Channels made of pixels."""
    value, side = _along_channels(call), call.argument(1, "downscale_factor")
    return None if value is None else Channels(value.ids.repeat(side**2), value.axes)


def _along_channels(call: Call) -> Channels | None:
    """Returns the channels of pictures; pinned, and None, where they lie along another axis."""
    value = call.channels(call.operand)
    if not isinstance(value, Channels):
        return None
    value = call.ids.compact(value)
    if value.axes != (len(call.shape(call.operand)) - 3,):
        call.ids.pin(value, "pixels are made of another axis than the channels'")
        return None
    return value


def chunk_rule(call: Call) -> Value:
    """Parts that are equal and cut anew at every width, so that their channels are tied."""
    axis, parts = call.axis(place=2), call.node.meta["shape"]
    value, sizes = call.channels(call.operand), [part[axis] for part in parts]
    if not isinstance(value, Channels) or axis not in value.axes:
        return [value] * len(parts)
    equal = len(set(sizes)) == 1 and call.argument(1, "chunks") == len(parts)
    if value.ids.ndim == 1 and not equal:
        call.rewrite({1: _counts(value, sizes), 2: axis}, torch.split)
        return _cut(call, value, axis, sizes)
    results = parts_along(value, axis, sizes)
    if not equal:
        call.ids.tie_along(value.ids, value.axes.index(axis))
    else:
        for result in results[1:]:
            call.ids.tie(results[0].ids, result.ids)
    return results


def split_rule(call: Call) -> Value:
    """Parts of written sizes, which have widths of their own."""
    axis, parts = call.axis(place=2), call.node.meta["shape"]
    value, sizes = call.channels(call.operand), [part[axis] for part in parts]
    if not isinstance(value, Channels) or axis not in value.axes:
        return [value] * len(parts)
    if value.ids.ndim > 1:
        call.ids.tie_along(value.ids, value.axes.index(axis))
        return parts_along(value, axis, sizes)
    call.rewrite({call.key(1, "split_size", "split_size_or_sections"): _counts(value, sizes)})
    return _cut(call, value, axis, sizes)


def _cut(call: Call, value: Channels, axis: int, sizes: Sequence[int]) -> Value:
    """Returns parts with widths of their own."""
    results = parts_along(value, axis, sizes)
    call.ids.parts += [result.ids for result in results]
    return results


def _counts(value: Channels, sizes: Sequence[int]) -> list[Count]:
    return [Count(part) for part in np.split(value.ids, np.cumsum(sizes)[:-1])]


def unbind_rule(call: Call) -> Value:
    """A tensor for every index of an axis without channels."""
    value, axis = call.channels(call.operand), call.axis()
    part = value
    if isinstance(value, Channels):
        part = without_axis(call.ids, value, axis)
        if part is None:
            call.ids.pin(value, "its channels are taken apart one by one")
    return [part] * len(call.node.meta["shape"])


def getitem_rule(call: Call) -> Value:
    """An index of a tensor, or one of several results."""
    source, index = call.node.args
    value = call.channels(source)
    if isinstance(value, Channels):
        return _index(call, value, index)
    if value is None or isinstance(index, int | slice):
        return None if value is None else value[index]
    call.pin_all("an index is computed while the network runs")
    return None


def setitem_rule(call: Call) -> None:
    """What is written into a part of a tensor is tied to that part."""
    source, index, written = call.node.args
    value, new = call.channels(source), call.channels(written)
    if not isinstance(value, Channels):
        call.pin_all("written into a tensor whose channels are unknown")
        return
    part = _index(call, value, index)
    if part is not None and new is None and not call.shape(written):
        return
    place, moved = (call.ids.compact(v) if isinstance(v, Channels) else None for v in (part, new))
    if place and moved and (place.axes, place.ids.shape) == (moved.axes, moved.ids.shape):
        call.ids.tie(place.ids, moved.ids)
    else:
        call.pin_all("a tensor whose channels lie elsewhere is written into a part")


def _index(call: Call, value: Channels, index: object) -> Value:
    """Returns the channels of what an index takes, entry by entry; counts those it names."""
    written = index if isinstance(index, tuple) else (index,)
    entries = index_entries(written, len(call.shape(call.node.args[0])))
    template: list[Any] = [WRITTEN] * len(written)
    x: Channels | None = value
    place = 0
    for number, entry in enumerate(entries):
        if x is None or (place > x.axes[-1] and entry is not None):
            break
        if entry is None:
            x = with_axis(x, place)
        elif isinstance(entry, fx.Node) and call.shape(entry) and _single(entries):
            x = without_axis(call.ids, x, place)
            for _ in call.shape(entry):
                x, place = (x and with_axis(x, place)), place + 1
            place -= 1
        elif isinstance(entry, int) or (isinstance(entry, fx.Node) and _number(entry) is not None):
            x, place = without_axis(call.ids, x, place), place - 1
        elif place in x.axes:
            x, ends = _sliced(call, x, place, entry)
            if ends is not WRITTEN:
                behind = Ellipsis in written[: number + 1]
                template[number - (len(entries) - len(written)) * behind] = ends
        elif not isinstance(entry, slice):
            x = None
        place += 1
    if x is None:
        call.ids.pin(value, "an index picks channels by number")
    elif any(entry is not WRITTEN for entry in template):
        ends = tuple(template) if isinstance(index, tuple) else template[0]
        call.rewrite({1: ends})
    return x


def _single(entries: Sequence[Any]) -> bool:
    """Returns whether one entry alone is a tensor, so that its axes come where it stands."""
    return sum(not isinstance(entry, slice) and entry is not None for entry in entries) == 1


def _sliced(call: Call, x: Channels, axis: int, entry: Any) -> tuple[Channels | None, Any]:
    """Returns what a slice takes along an axis with channels, and its ends as numbers of them."""
    size = x.ids.shape[x.axes.index(axis)]
    if not isinstance(entry, slice) or entry.step not in (None, 1):
        return None, WRITTEN
    first, last = (_number(end) for end in (entry.start, entry.stop))
    start, stop, _ = slice(first, last).indices(size)
    if (start, stop) == (0, size) and (last is None or last >= 0):
        return x, WRITTEN
    if start >= stop:
        return None, WRITTEN
    part = part_of(call.ids, x, axis, start, stop)
    if x.ids.ndim > 1:
        return part, WRITTEN
    begins = WRITTEN if first in (None, 0) else Count(x.ids[:start])
    ends = WRITTEN if last is None else Count(x.ids[:stop])
    return part, slice(begins, ends, WRITTEN)


def _number(end: Any) -> int | None:
    """Returns a number that is written down or was computed from the input's shape."""
    number: int | None = end.meta["value"] if isinstance(end, fx.Node) else end
    return number


def unsqueeze_rule(call: Call) -> Value:
    """A new axis of one element."""
    value = call.channels(call.operand)
    if not isinstance(value, Channels):
        return None
    return with_axis(value, call.argument(1, "dim") % len(call.node.meta["shape"]))


def squeeze_rule(call: Call) -> Value:
    """Axes of one element that go."""
    value, shape = call.channels(call.operand), call.shape(call.operand)
    if not isinstance(value, Channels):
        return None
    for axis in sorted((a for a in call.axes() if shape[a] == 1), reverse=True):
        part = without_axis(call.ids, value, axis)
        if part is None:
            call.ids.pin(value, "a squeeze drops the channel axis")
            return None
        value = part
    return value


def pad_rule(call: Call) -> Value:
    """Padding of other axes than the channels'."""
    x = call.operand
    value, pads = call.channels(x), call.argument(1, "pad")
    if not isinstance(value, Channels):
        return None
    if isinstance(pads, fx.Node):
        call.ids.pin(value, "padding is computed as a whole while the network runs")
        return None
    value = call.ids.compact(value)
    padded = [a for a in value.axes if any(pads[2 * (len(call.shape(x)) - 1 - a) :][:2])]
    if padded and value.ids.ndim > 1:
        for axis in padded:
            call.ids.tie_along(value.ids, value.axes.index(axis))
        value = call.ids.compact(value)
        padded = [a for a in padded if a in value.axes]
    if padded:
        call.ids.pin(value, "padding adds channels")
        return None
    return value


def roll_rule(call: Call) -> Value:
    """Places that change along other axes than the channels'."""
    value, dims = call.channels(call.operand), call.argument(2, "dims")
    if isinstance(value, Channels):
        ndim = len(call.shape(call.operand))
        rolled = {d % ndim for d in ([dims] if isinstance(dims, int) else dims or range(ndim))}
        if rolled & set(value.axes):
            call.pin_all("channels change places by a number")
            return None
    return value


def flip_rule(call: Call) -> Value:
    """An order that is reversed along other axes than the channels'."""
    value = call.channels(call.operand)
    if isinstance(value, Channels):
        ndim = len(call.shape(call.operand))
        if {d % ndim for d in call.rest("dims")} & set(value.axes):
            call.pin_all("channels change places by a number")
            return None
    return value
