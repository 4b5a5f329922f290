"""The best sum of small tables over many groups, by eliminating one group after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LARGEST = 2**18  # entries of a joined table; what is larger is split, which loosens the bound


@dataclass(frozen=True)
class Piece:
    """One table made when a group is eliminated.

    Attributes:
        group: The group, first dimension of the table.
        others: The groups of its other dimensions, which are eliminated later.
        parts: Which tables are added up: those given, then those made before it.
    """

    group: int
    others: tuple[int, ...]
    parts: tuple[int, ...]


class Elimination:
    """Bucket elimination over tables of fixed scopes; split ("mini-buckets") where it grows.

    Source: Dechter and Rish, Mini-buckets, JACM 2003.

    Attributes:
        sizes: How many choices every group has.
        pieces: In the order in which they are made.
        is_exact: Whether no table was split: then the bound is the maximum.
    """

    def __init__(self, sizes: Sequence[int], scopes: Sequence[tuple[int, ...]]) -> None:
        """Plans the elimination.

        Args:
            sizes: How many choices every group has.
            scopes: The groups of each table, ascending; each group occurs.
        """
        self.sizes, self._scopes = list(sizes), list(scopes)
        self.pieces: list[Piece] = []
        self._loose = [i for i, scope in enumerate(scopes) if not scope]
        live = [{i for i, scope in enumerate(scopes) if g in scope} for g in range(len(sizes))]
        remaining = set(range(len(sizes)))
        while remaining:
            group = min(remaining, key=lambda g: (self._weight(g, live[g]), g))
            self._eliminate(group, live)
            remaining.remove(group)
        self.is_exact = len(self.pieces) == len(sizes)
        self._steps = self._ordered()

    def bound(self, tables: Sequence[np.ndarray]) -> tuple[float, list[np.ndarray]]:
        """Returns the most that the tables can add up to, and what choices lose of it.

        Args:
            tables: One for each scope, a dimension for each of its groups.

        Returns:
            The bound, and for each piece what each choice of its group, first dimension, loses at
            given choices of the others: at least 0. The losses of a plan add up to the
            difference between the bound and the plan's own sum.
        """
        parts, losses = list(tables), []
        for piece in self.pieces:
            scope = (piece.group, *piece.others)
            joined = np.zeros([self.sizes[g] for g in scope])
            for part in piece.parts:
                joined += _laid(parts[part], self._scopes[part], scope)
            best = joined.max(axis=0)
            parts.append(best)
            losses.append(np.subtract(best, joined, out=joined))
        return float(sum(parts[i] for i in self._loose)), losses

    def best(self, losses: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the plan that loses nothing (where the bound is exact), shape [groups]."""
        plan = np.zeros(len(self.sizes), dtype=np.int64)
        for group, _ in self.steps():
            lost = [
                table[(slice(None), *plan[list(piece.others)])]
                for piece, table in zip(self.pieces, losses, strict=True)
                if piece.group == group
            ]
            plan[group] = np.sum(lost, axis=0).argmin()
        return plan

    def steps(self) -> list[tuple[int, list[int]]]:
        """Returns the order in which a plan is made: a group, and those that still matter after.

        A group comes after all that its pieces depend on; what depends on the latest comes first,
        so that few earlier ones still matter.
        """
        return self._steps

    def _ordered(self) -> list[tuple[int, list[int]]]:
        needs = [set[int]() for _ in self.sizes]
        for piece in self.pieces:
            needs[piece.group] |= set(piece.others)
        place: dict[int, int] = {}
        steps = []
        while len(place) < len(needs):
            open_groups = [g for g in range(len(needs)) if g not in place]
            ready = [g for g in open_groups if needs[g] <= place.keys()]
            group = max(ready, key=lambda g: (max((place[o] for o in needs[g]), default=-1), -g))
            place[group] = len(place)
            matter = set().union(*(needs[g] for g in open_groups if g != group))
            steps.append((group, sorted(matter & place.keys())))
        return steps

    def _weight(self, group: int, tables: set[int]) -> int:
        scope = set().union(*(self._scopes[i] for i in tables), {group})
        return math.prod(self.sizes[g] for g in scope)

    def _eliminate(self, group: int, live: list[set[int]]) -> None:
        for parts in self._split(group, live[group]):
            others = tuple(sorted({g for i in parts for g in self._scopes[i]} - {group}))
            self.pieces.append(Piece(group, others, tuple(parts)))
            made = len(self._scopes)
            self._scopes.append(others)
            for g in others:
                live[g] = (live[g] - set(parts)) | {made}
            if not others:
                self._loose.append(made)

    def _split(self, group: int, tables: set[int]) -> list[list[int]]:
        """Returns the tables in as few heaps as joined tables of bearable size allow."""
        heaps: list[list[int]] = []
        for table in sorted(tables, key=lambda i: (-len(self._scopes[i]), i)):
            for heap in heaps:
                if self._weight(group, {*heap, table}) <= _LARGEST:
                    heap.append(table)
                    break
            else:
                heaps.append([table])
        return heaps


def _laid(table: np.ndarray, scope: tuple[int, ...], onto: tuple[int, ...]) -> np.ndarray:
    """Returns a view with the dimensions of another scope, of length 1 where it has none."""
    places = [g for g in onto if g in scope]
    turned = table.transpose([scope.index(g) for g in places])
    return turned[tuple(slice(None) if g in scope else None for g in onto)]
