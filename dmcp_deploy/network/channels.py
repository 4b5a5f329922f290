"""Channel identities: which positions of which tensors must be kept or dropped together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Channels:
    """Where a tensor's channels lie: one identity per index of some of its axes.

    Attributes:
        ids: Shape (d1, ..., dk): the identities; k is 1 but for a channel axis that a reshape
            has split.
        axes: Those k axes, ascending. Along every other axis the identities are the same.
    """

    ids: Ids
    axes: tuple[int, ...]

    @property
    def axis(self) -> int:
        """The first axis, and the only one of channels that no reshape has split."""
        return self.axes[0]


class ChannelIds:
    """Union-find over channels: `tie` joins identities, `pin` keeps them whole for a reason."""

    def __init__(self, even: Collection[object] = ()) -> None:
        """Has no channels yet.

        Args:
            even: The grouped convolutions that are to keep their groups and to lose channels of
                each; others lose whole groups.
        """
        self.even = even
        self._parent: Ids = np.empty(0, dtype=np.int64)
        self._pins: dict[str, list[Ids]] = {}
        self._splits: list[tuple[Ids, int | None]] = []
        #: Identities that are cut off from others of their layers, with widths of their own.
        self.parts: list[Ids] = []

    def fresh(self, count: int) -> Ids:
        """Returns `count` new identities, shape [count]."""
        start = len(self._parent)
        new = np.arange(start, start + count)
        self._parent = np.concatenate([self._parent, new])
        return new

    def find(self, ids: Ids) -> Ids:
        """Returns the representative of each identity, same shape."""
        roots = self._parent[ids]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                return roots
            roots = above

    def tie(self, left: Ids, right: Ids) -> None:
        """Joins two arrays of identities of one shape, element by element."""
        while True:
            a, b = self.find(left), self.find(right)
            if np.array_equal(a, b):
                return
            np.minimum.at(self._parent, np.maximum(a, b).ravel(), np.minimum(a, b).ravel())

    def tie_rows(self, table: Ids) -> None:
        """Joins all identities of each row of a [rows, columns] array."""
        self.tie(table, np.broadcast_to(table[:, :1], table.shape))

    def tie_along(self, table: Ids, dim: int) -> None:
        """Joins identities of an array that differ by their index of one dimension alone."""
        self.tie(table, np.broadcast_to(table.take([0], dim), table.shape))

    def compact(self, x: Channels) -> Channels:
        """Returns the channels without the axes along which they are the same by now."""
        if x.ids.ndim == 1:
            return x
        roots, axes = self.find(x.ids), x.axes
        for dim in reversed(range(roots.ndim)):
            first = roots.take([0], dim)
            if roots.ndim > 1 and (roots == first).all():
                roots, axes = first.squeeze(dim), axes[:dim] + axes[dim + 1 :]
        return Channels(roots, axes)

    def split(self, table: Ids, dim: int | None) -> None:
        """Takes note that one axis became several, of which one alone can narrow in the end.

        Args:
            table: The identities along the new axes.
            dim: The dimension whose size follows from the others' at run time, if that is one;
                it narrows if nothing that comes says otherwise, or else the first.
        """
        self._splits.append((table, dim))

    def settle_splits(self) -> None:
        """Ties the channels of every split axis along all new axes but one."""
        for table, wanted in self._splits:
            roots = self.find(table)
            free = [d for d in range(roots.ndim) if (roots != roots.take([0], d)).any()]
            stays = wanted if wanted in free else next(iter(free), None)
            for dim in free:
                if dim != stays:
                    self.tie_along(table, dim)

    def pin(self, value: Any, reason: str) -> None:
        """Keeps whole whatever channels a value (Channels, a nest of them, or None) has."""
        if isinstance(value, Channels):
            self._pins.setdefault(reason, []).append(value.ids.ravel())
        elif isinstance(value, Sequence) and not isinstance(value, str):
            for item in value:
                self.pin(item, reason)

    def pinned(self) -> dict[int, str]:
        """Returns representative -> the first reason why it is kept whole."""
        reasons: dict[int, str] = {}
        for reason, arrays in self._pins.items():
            for root in self.find(np.concatenate(arrays)).tolist():
                reasons.setdefault(root, reason)
        return reasons

    def all(self) -> Ids:
        """Returns every identity, ascending."""
        return np.arange(len(self._parent))
