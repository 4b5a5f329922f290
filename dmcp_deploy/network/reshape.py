"""What reshapes, permutations, splits and indices do to the place of the channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dmcp_deploy.network.channels import ChannelIds, Channels

Shape = tuple[int, ...]

#: Identities of a reshaped stretch that are looked at; no network needs a hundredth of them.
_MOST = 1 << 24


def reshape_channels(
    ids: ChannelIds, x: Channels, before: Shape, after: Shape, inferred: Sequence[bool] = ()
) -> Channels | None:
    """Returns the channels after a view, reshape or flatten.

    Args:
        ids: The identities, to note where one axis becomes several.
        x: The channels before.
        before: The shape before.
        after: The shape after.
        inferred: Whether each size was computed while running; empty is none of them.
    """
    (first, last), (start, stop) = _stretch(x.axes, before, after)
    if start == stop or math.prod(before[first:last]) > _MOST:
        ids.pin(x, "a reshape mixes channels with other axes")
        return None
    spread = [size if a in x.axes else 1 for a, size in enumerate(before)][first:last]
    table = np.broadcast_to(x.ids.reshape(spread), before[first:last])
    axes = tuple(range(start, stop))
    reshaped = ids.compact(Channels(table.reshape(after[start:stop]), axes))
    if reshaped.ids.ndim > 1:
        computed = [d for d, axis in enumerate(reshaped.axes) if any(inferred[axis : axis + 1])]
        ids.split(reshaped.ids, computed[0] if len(computed) == 1 else None)
    return reshaped


def permute_channels(x: Channels, order: Sequence[int]) -> Channels:
    """Returns the channels after a permutation: axis i of the result is axis order[i] before."""
    axes = [a % len(order) for a in order]
    places = [axes.index(a) for a in x.axes]
    dims = sorted(range(len(places)), key=places.__getitem__)
    return Channels(x.ids.transpose(dims), tuple(sorted(places)))


def parts_along(x: Channels, axis: int, sizes: Sequence[int]) -> list[Channels]:
    """Returns the channels of consecutive parts of some sizes along an axis that has channels."""
    parts = np.split(x.ids, np.cumsum(sizes)[:-1], axis=x.axes.index(axis))
    return [Channels(part, x.axes) for part in parts]


def part_of(ids: ChannelIds, x: Channels, axis: int, start: int, stop: int) -> Channels:
    """Returns the channels from `start` to `stop` along an axis.

    One that narrows is cut into parts with widths of their own; of one axis of several it is
    sure from now on that it does not narrow.
    """
    dim = x.axes.index(axis)
    if x.ids.ndim == 1:
        ids.parts += [x.ids[:start], x.ids[start:stop], x.ids[stop:]]
    else:
        ids.tie_along(x.ids, dim)
    return Channels(x.ids.take(range(start, stop), dim), x.axes)


def without_axis(ids: ChannelIds, x: Channels, axis: int) -> Channels | None:
    """Returns the channels of a tensor that loses an axis; None if they lay along that alone."""
    if axis in x.axes:
        if x.ids.ndim == 1:
            return None
        ids.tie_along(x.ids, x.axes.index(axis))
        first = x.ids.take([0], x.axes.index(axis)).squeeze(x.axes.index(axis))
        x = Channels(first, tuple(a for a in x.axes if a != axis))
    return Channels(x.ids, tuple(a - (a > axis) for a in x.axes))


def with_axis(x: Channels, axis: int) -> Channels:
    """Returns the channels of a tensor that gets a new axis."""
    return Channels(x.ids, tuple(a + (a >= axis) for a in x.axes))


def index_entries(index: object, ndim: int) -> list[Any]:
    """Returns an index with one entry for every axis, and those that add an axis."""
    entries = list(index) if isinstance(index, tuple) else [index]
    rest = [slice(None)] * (ndim - sum(e is not None and e is not Ellipsis for e in entries))
    stop = next((i for i, e in enumerate(entries) if e is Ellipsis), len(entries))
    return entries[:stop] + rest + entries[stop + 1 :]


def _stretch(
    axes: tuple[int, ...], before: Shape, after: Shape
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the fewest consecutive axes before and after that hold the same with the channels."""
    cuts = [(0, 0), *_common_cuts(before, after)]
    first = max(cut for cut in cuts if cut[0] <= axes[0])
    behind = [cut for cut in cuts if cut[0] > axes[-1]]
    last = next((cut for cut in behind if cut[1] > first[1]), behind[0])
    return (first[0], last[0]), (first[1], last[1])


def _common_cuts(before: Shape, after: Shape) -> list[tuple[int, int]]:
    """Returns the places before and after that have the same number of elements in front."""
    i = j = 0
    cuts = []
    left = right = 1
    while i < len(before) or j < len(after):
        if j == len(after) or (i < len(before) and left <= right):
            left *= before[i]
            i += 1
        else:
            right *= after[j]
            j += 1
        if left == right:
            cuts.append((i, j))
    return cuts
