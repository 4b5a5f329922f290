"""One network at any widths: shared weights, sliced for every forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.graph import Group, Layer, Network, Units
from dmcp_deploy.network.layers import narrowed
from dmcp_deploy.plan import Keep

Index = slice | Tensor | None


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

    def count(self, units: Units) -> int:
        """Returns how many positions among `units` are kept."""
        return int(np.count_nonzero(self._kept[units]))


def layer_tensors(module: nn.Module, layer: Layer, selection: Selection) -> dict[str, Tensor]:
    """Returns the kept parts of a layer's tensors: views where the kept channels lead.

    Tensors that are kept whole are not in the result.
    """
    parts: dict[str, Tensor] = {}
    for name, cuts in layer.cuts.items():
        tensor = whole = getattr(module, name)
        for dim, units in cuts:
            tensor = take(tensor, dim, selection.index(units))
        if tensor is not whole:
            parts[name] = tensor
    return parts


def take(tensor: Tensor, dim: int, index: Index) -> Tensor:
    """Returns the part of a tensor that an index of `Selection` picks along one dimension."""
    if index is None:
        return tensor
    if isinstance(index, slice):
        return tensor.narrow(dim, 0, index.stop)
    return tensor.index_select(dim, index.to(tensor.device))


class Supernet(nn.Module):
    """Runs a network at any widths on its own, shared weights.

    Layers are really sliced, so that time falls with the width. In training mode batch norms
    use the statistics of the batch and leave the running ones as they are: those belong to one
    width only, and are recomputed for a network that is to be evaluated.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.model = network.model

    def forward(
        self,
        images: Tensor,
        keeps: Mapping[str, int | Keep] | None = None,
        gates: Tensor | None = None,
    ) -> Tensor:
        """Returns the logits [N, classes] of images [N, C, H, W].

        Args:
            images: The batch.
            keeps: Group name -> channels kept from the front (or a Keep); None is all.
            gates: One factor per unit of the network, shape [units]; None is no gates.
        """
        selection = Selection(self.network, keeps or {})
        run = _NarrowRun(self.network, selection, gates, images.device)
        return run.run(images)  # type: ignore[no-any-return]


class _NarrowRun(fx.Interpreter):
    def __init__(
        self,
        network: Network,
        selection: Selection,
        gates: Tensor | None,
        device: torch.device,
    ) -> None:
        super().__init__(network.graph)
        self._network = network
        self._selection = selection
        self._gates = None if gates is None else torch.cat([gates, gates.new_ones(1)])
        self._device = device

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if self._gates is not None and n.name in self._network.gates:
            units, axis = self._network.gates[n.name]
            gate = self._gates[torch.from_numpy(units).to(self._gates.device)]
            shape = [1] * value.ndim
            shape[axis] = -1
            value = value * gate.view(shape).to(value.dtype)
        return value

    def fetch_attr(self, target: str) -> Any:
        # The graph has references of its own, which go stale when the model changes its device.
        if target.startswith("_tensor_constant"):
            return super().fetch_attr(target).to(self._device)
        return reduce(getattr, target.split("."), self._network.model)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        tensor = super().get_attr(target, args, kwargs)
        if target in self._network.parameters:
            dim, units = self._network.parameters[target]
            return take(tensor, dim, self._selection.index(units))
        return tensor

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        layer = self._network.layers.get(target)
        if layer is None:
            with _still_statistics(module):
                return module(*args, **kwargs)
        tensors = layer_tensors(module, layer, self._selection)
        if not tensors and layer.kind != "norm":
            return module(*args, **kwargs)
        inputs = None if layer.inputs is None else self._selection.count(layer.inputs)
        copy = narrowed(module, tensors, inputs)
        with _still_statistics(copy):
            return copy(*args, **kwargs)


@contextmanager
def _still_statistics(module: nn.Module) -> Iterator[None]:
    """Keeps the batch norms in a module from updating their running statistics."""
    tracking = [m for m in module.modules() if m.training and _tracks_statistics(m)]
    for norm in tracking:
        norm.__dict__["track_running_stats"] = False
    try:
        yield
    finally:
        for norm in tracking:
            norm.__dict__["track_running_stats"] = True


def _tracks_statistics(module: nn.Module) -> bool:
    return bool(getattr(module, "track_running_stats", False))


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
