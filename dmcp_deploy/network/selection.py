"""Which units of a network are kept, and the parts of its tensors that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.graph import Group, Layer, Network, Units
from dmcp_deploy.network.rewrites import Count
from dmcp_deploy.plan import Keep

Index = slice | Tensor | None
#: (dimension, the positions that are kept along it) for every dimension that loses some.
Picks = Sequence[tuple[int, slice | Tensor]]
Pick = Callable[[Tensor, Picks], Tensor]


class Selection:
    """Which units of a network are kept, and the index of the kept positions of any axis."""

    def __init__(self, network: Network, keeps: Mapping[str, int | Keep]) -> None:
        """Selects what `keeps` says of each prunable group; groups it lacks stay whole.

        Args:
            network: The network whose groups are meant.
            keeps: Group name -> channels kept from the front, or a Keep.

        Raises:
            DmcpError: A group is unknown, pinned but not kept whole, or left with parts of units.
        """
        kept = np.ones(network.unit_count + 1, dtype=bool)
        groups = {group.name: group for group in network.groups}
        for name, keep in keeps.items():
            group = groups.get(name)
            if group is None:
                raise DmcpError(f"{network.spec.model} has no channel group {name!r}.")
            own = _kept_units(group, keep)
            if group.prunable:
                kept[group.first : group.first + group.units] = own
        self._kept = kept
        self._indices: dict[int, Index] = {}

    def index(self, units: Units) -> Index:
        """Returns the kept positions among `units`: a slice if they lead, None if all are kept."""
        key = id(units)
        if key not in self._indices:
            self._indices[key] = _as_index(np.asarray(self._kept[units]))
        return self._indices[key]

    def picks(self, cuts: Sequence[tuple[int, Units]]) -> Picks:
        """Returns what is kept of a tensor with such cuts; empty if it is kept whole."""
        found = ((dim, self.index(units)) for dim, units in cuts)
        return [(dim, index) for dim, index in found if index is not None]

    def extent(self, count: Count) -> int:
        """Returns how many positions along one of several axes are kept."""
        kept = self._kept[count.units]
        others = tuple(dim for dim in range(kept.ndim) if dim != count.dim)
        return int(np.count_nonzero(kept.any(axis=others)))

    def count(self, units: Units) -> int:
        """Returns how many positions among `units` are kept."""
        return int(np.count_nonzero(self._kept[units]))


def part(tensor: Tensor, picks: Picks) -> Tensor:
    """Returns the picked part of a tensor: a view where the kept positions lead."""
    for dim, index in picks:
        if isinstance(index, slice):
            tensor = tensor.narrow(dim, 0, index.stop)
        else:
            tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


def layer_tensors(
    module: nn.Module,
    layer: Layer,
    selection: Selection,
    pick: Pick = part,
) -> dict[str, Tensor]:
    """Returns the kept parts of a layer's tensors.

    Tensors that are kept whole are not in the result.

    Args:
        module: The layer.
        layer: What is known of it.
        selection: What is kept.
        pick: What takes a part of a tensor.
    """
    parts: dict[str, Tensor] = {}
    for name, cuts in layer.cuts.items():
        picks = selection.picks(cuts)
        if picks:
            parts[name] = pick(getattr(module, name), picks)
    return parts


class Borrowed:
    """Parts of shared parameters, each a leaf of its own in one pass.

    Autograd would pad the gradient of a slice to the whole tensor, once for every dimension,
    before it adds it up. Leaves keep gradients of their own size; `hand_back` adds them to the
    leading part of the shared parameter's gradient.
    """

    def __init__(self) -> None:
        """Has lent nothing yet."""
        self._lent: list[tuple[Tensor, Picks, Tensor]] = []

    def lend(self, whole: Tensor, picks: Picks) -> Tensor:
        """Returns a part of a tensor, as a leaf where it is a view that learns."""
        views = all(isinstance(index, slice) for _, index in picks)
        if not (views and whole.requires_grad and torch.is_grad_enabled()):
            return part(whole, picks)
        leaf = part(whole.detach(), picks).requires_grad_()
        self._lent.append((whole, picks, leaf))
        return leaf

    @torch.no_grad()
    def hand_back(self) -> None:
        """Adds the gradient of every leaf to that of the parameter it is a part of."""
        sums, gradients = [], []
        for whole, picks, leaf in self._lent:
            if leaf.grad is None:
                continue
            if whole.grad is None:
                whole.grad = torch.zeros_like(whole)
            sums.append(part(whole.grad, picks))
            gradients.append(leaf.grad)
        if sums:
            torch._foreach_add_(sums, gradients)
        self._lent.clear()


def _kept_units(group: Group, keep: int | Keep) -> np.ndarray:
    """Returns whether each unit of a group is kept, shape [units].

    Raises:
        DmcpError: A unit is kept in part, or a pinned group not whole.
    """
    kept = keep if isinstance(keep, int) else keep.kept
    units = np.zeros(group.units, dtype=bool)
    if isinstance(kept, int):
        units[: kept // group.unit] = True
        count = kept
    else:
        units[group.unit_of[list(kept)]] = True
        count = len(kept)
    if count != units.sum() * group.unit or not units.any():
        raise DmcpError(
            f"Group {group.name!r} cannot keep these {count} of its {group.size} channels:"
            f" they come in units of {group.unit}, and at least one unit stays."
        )
    if not group.prunable and not units.all():
        raise DmcpError(f"Group {group.name!r} must be kept whole: {group.reason}.")
    return units


def _as_index(kept: np.ndarray) -> Index:
    count = int(np.count_nonzero(kept))
    if count == len(kept):
        return None
    if kept[:count].all():
        return slice(0, count)
    return torch.from_numpy(np.flatnonzero(kept))
