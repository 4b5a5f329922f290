"""What reshapes, permutations, splits and indices do to the place of the channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dmcp_deploy.network.channels import ChannelIds, Channels

Shape = tuple[int, ...]
_FIXED = "a reshape writes the number of channels down as a constant"
_MIXED = "a reshape mixes channels with other axes"


def flatten_channels(
    ids: ChannelIds, x: Channels | None, shape: Shape, start: int, end: int
) -> Channels | None:
    """Returns the channels after axes start..end (inclusive, may be negative) became one."""
    if x is None:
        return None
    first, last = start % len(shape), end % len(shape)
    stop = x.axis + x.ids.ndim
    if stop <= first:
        return x
    if x.axis > last:
        return Channels(x.ids, x.axis - (last - first))
    if x.axis != first or stop > last + 1:
        ids.pin(x, _MIXED)
        return None
    repeats = math.prod(shape[stop : last + 1])
    return Channels(np.repeat(x.ids.ravel(), repeats), first)


def reshape_channels(
    ids: ChannelIds, x: Channels | None, before: Shape, after: Shape, sizes: Sequence[object]
) -> Channels | None:
    """Returns the channels after a view or reshape.

    Args:
        ids: The identities, to pin where the channels get lost.
        x: The channels before.
        before: The shape before.
        after: The shape after.
        sizes: The sizes as the call wrote them: ints are constants of the source, -1 is
            inferred, anything else was computed from the input while running.
    """
    if x is None:
        return None
    axis, channels = x.axis, x.ids.size
    trailing = math.prod(before[axis + x.ids.ndim :])
    if before[:axis] != after[:axis]:
        return _lost(ids, x, _MIXED)
    if math.prod(after[axis:]) == after[axis] == channels * trailing:
        if _is_constant(sizes, axis):
            return _lost(ids, x, _FIXED)
        return Channels(np.repeat(x.ids.ravel(), trailing), axis)
    stop = _channel_axes(after, axis, channels)
    if stop is None or math.prod(after[stop:]) != trailing:
        return _lost(ids, x, _MIXED)
    table = x.ids.reshape(after[axis:stop])
    constants = [_is_constant(sizes, i) for i in range(axis, stop)]
    if all(constants):
        return _lost(ids, x, _FIXED)
    kept_apart = table.shape == x.ids.shape and not any(constants)
    if table.ndim > 1 and not kept_apart and not _tie_split(ids, table, constants):
        return _lost(ids, x, _MIXED)
    return _without_single_axes(Channels(table, axis))


def permute_channels(ids: ChannelIds, x: Channels | None, order: Sequence[int]) -> Channels | None:
    """Returns the channels after a permutation: axis i of the result is axis order[i] before."""
    if x is None:
        return None
    axes = [a % len(order) for a in order]
    inside = [a for a in axes if x.axis <= a < x.axis + x.ids.ndim]
    places = [axes.index(a) for a in inside]
    if places != list(range(places[0], places[0] + len(places))):
        return _lost(ids, x, _MIXED)
    return Channels(x.ids.transpose([a - x.axis for a in inside]), places[0])


def chunk_channels(
    ids: ChannelIds, x: Channels | None, count: int, axis: int
) -> list[Channels | None]:
    """Returns the channels of each of `count` equal parts along an axis.

    The parts are cut again at run time from whatever width arrives, so their channels are tied.
    """
    if x is None or axis != x.axis:
        return [x] * count
    if x.ids.ndim != 1 or x.ids.size % count:
        ids.pin(x, "a split into unequal parts")
        return [None] * count
    parts = x.ids.reshape(count, -1)
    ids.tie_rows(parts.T)
    return [Channels(part, axis) for part in parts]


def index_channels(
    ids: ChannelIds, x: Channels | None, shape: Shape, index: object
) -> Channels | None:
    """Returns the channels after `tensor[index]`."""
    if x is None:
        return None
    axis, entries = _locate(_entries(index, len(shape)), x.axis)
    if axis is None:
        return _lost(ids, x, "an index moves the channel axis")
    if not all(map(_takes_all, entries, x.ids.shape)):
        return _lost(ids, x, "an index picks channels by number")
    return Channels(x.ids, axis)


def _entries(index: object, ndim: int) -> list[Any]:
    """Returns an index with one entry for every axis, and those that add an axis."""
    entries = list(index) if isinstance(index, tuple) else [index]
    rest = [slice(None)] * (ndim - sum(e is not None and e is not Ellipsis for e in entries))
    stop = next((i for i, e in enumerate(entries) if e is Ellipsis), len(entries))
    return entries[:stop] + rest + entries[stop + 1 :]


def _locate(entries: list[Any], axis: int) -> tuple[int | None, list[Any]]:
    """Returns where an axis is after an index, and the entries from that axis on."""
    before = after = 0
    for place, entry in enumerate(entries):
        if entry is None:
            after += 1
        elif before == axis:
            return after, entries[place:]
        elif isinstance(entry, int | slice):
            before += 1
            after += isinstance(entry, slice)
        else:
            break
    return None, []


def _takes_all(entry: object, size: int) -> bool:
    """Returns whether an index entry takes a whole axis, at this size and at any smaller one."""
    if not isinstance(entry, slice) or entry.step not in (None, 1) or entry.start not in (None, 0):
        return False
    return entry.stop is None or (isinstance(entry.stop, int) and entry.stop >= size)


def _channel_axes(after: Shape, axis: int, channels: int) -> int | None:
    """Returns where the axes end that hold just the channels, or None."""
    stop, size = axis, 1
    while stop < len(after) and size < channels:
        size *= after[stop]
        stop += 1
    return stop if size == channels and stop > axis else None


def _tie_split(ids: ChannelIds, table: np.ndarray, constants: list[bool]) -> bool:
    """Ties the axis that is computed at run time across the constant one."""
    if table.ndim != 2 or constants.count(True) != 1:
        return False
    ids.tie_rows(table.T if constants[0] else table)
    return True


def _without_single_axes(x: Channels) -> Channels:
    """Returns channels that begin at the first axis that holds more than one of them."""
    single = 0
    while single < x.ids.ndim - 1 and x.ids.shape[single] == 1:
        single += 1
    return Channels(x.ids.reshape(x.ids.shape[single:]), x.axis + single)


def _is_constant(sizes: Sequence[object], axis: int) -> bool:
    return axis < len(sizes) and isinstance(sizes[axis], int) and sizes[axis] != -1


def _lost(ids: ChannelIds, x: Channels, reason: str) -> Channels | None:
    ids.pin(x, reason)
    return None
