"""Channels in order of importance, for searches that start from trained weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dmcp_deploy.network.graph import Network, Units


def sorted_tensors(network: Network) -> dict[str, Tensor]:
    """Returns the network's state with the channels of every group in order of importance.

    A prefix of channels then holds the most important ones. The importance of a channel is the
    L1 norm of the weights that produce it, added up over the group's layers. A network that
    loads these tensors computes what it computed before: channels only trade places.
    """
    order = _order(network)
    tensors = {name: t.detach().clone() for name, t in network.model.state_dict().items()}
    for layer in network.layers.values():
        for name, cuts in layer.cuts.items():
            for dim, units in cuts:
                _permute(tensors, f"{layer.name}.{name}", dim, _positions(units, order))
    for name, (dim, units) in network.parameters.items():
        _permute(tensors, name, dim, _positions(units, order))
    return tensors


def _order(network: Network) -> np.ndarray:
    """Returns, for every unit number, the unit that takes its place."""
    scores = _scores(network)
    order = np.arange(network.unit_count)
    for group in network.prunable:
        span = slice(group.first, group.first + group.units)
        order[span] = group.first + np.argsort(-scores[span], kind="stable")
    return order


def _scores(network: Network) -> np.ndarray:
    scores = np.zeros(network.unit_count + 1)
    for layer in network.layers.values():
        if layer.outputs is None:
            continue
        weight = network.model.get_submodule(layer.name).get_parameter("weight")
        norms = weight.detach().abs().flatten(1).sum(1).double().cpu().numpy()
        np.add.at(scores, layer.outputs, norms)
    return scores[:-1]


def _positions(units: Units, order: np.ndarray) -> Tensor:
    """Returns the old position of what each position of an axis holds after sorting."""
    by_unit = np.argsort(units, kind="stable")
    starts = np.searchsorted(units[by_unit], units)
    ranks = np.empty(len(units), dtype=np.int64)
    ranks[by_unit] = np.arange(len(units)) - starts[by_unit]
    wanted = np.where(units < 0, -1, order[units])
    return torch.from_numpy(by_unit[np.searchsorted(units[by_unit], wanted) + ranks])


def _permute(tensors: dict[str, Tensor], name: str, dim: int, positions: Tensor) -> None:
    if name in tensors:
        tensors[name] = tensors[name].index_select(dim, positions.to(tensors[name].device))
