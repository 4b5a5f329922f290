"""Channel identities: which positions of which tensors must be kept or dropped together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Channels:
    """Where a tensor's channels lie: one identity per index of consecutive axes.

    Attributes:
        ids: Shape (d1, ..., dk): the identities; k is 1 but for a channel axis that a reshape
            has split.
        axis: The first of those axes.
    """

    ids: Ids
    axis: int


class ChannelIds:
    """Union-find over channels: `tie` joins identities, `pin` keeps them whole for a reason."""

    def __init__(self) -> None:
        self._parent: Ids = np.empty(0, dtype=np.int64)
        self._pins: dict[str, list[Ids]] = {}

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
