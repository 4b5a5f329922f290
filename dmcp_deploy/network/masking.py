"""Channels that stay in a network and carry nothing: filters of zero, softly or for good."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from dmcp_deploy.network.graph import Network, Units


@torch.no_grad()
def zero_filters(network: Network, kept: np.ndarray) -> None:
    """Zeroes the filters of units that are not kept, in place, in all layers that make them.

    Biases, scales and shifts stay: without them a ReLU behind a filter of zero would read zero
    and pass no gradient that could bring the filter back. Frozen filters stay.

    Args:
        network: The network.
        kept: Whether each unit is kept, shape [units].
    """
    for name, parameter, dim, rows in _producers(network, kept):
        if name == "weight":
            parameter.index_fill_(dim, rows, 0.0)


@torch.no_grad()
def silence(network: Network, kept: np.ndarray) -> None:
    """Zeroes all that produces, scales and shifts units that are not kept, in place.

    Their channels are then zero wherever activations keep zero at zero, so that slicing them off
    changes nothing: a batch norm behind a filter of zero would emit its shift. Layer norms are
    the exception, they look at all channels at once. Frozen parameters stay: a channel whose
    filter, scale and shift are all frozen is not silent.

    Args:
        network: The network.
        kept: Whether each unit is kept, shape [units].
    """
    for _, parameter, dim, rows in _producers(network, kept):
        parameter.index_fill_(dim, rows, 0.0)
    for layer in network.layers.values():
        if layer.kind == "norm" and layer.inputs is not None:
            rows = _dropped(layer.inputs, kept)
            for parameter in _learnt(network.model.get_submodule(layer.name)):
                parameter[rows.to(parameter.device)] = 0.0
    for name, (dim, units) in network.parameters.items():
        parameter = network.model.get_parameter(name)
        if parameter.requires_grad:
            parameter.index_fill_(dim, _dropped(units, kept).to(parameter.device), 0.0)


@torch.no_grad()
def bound_gradients(network: Network, kept: np.ndarray) -> None:
    """Shortens gradients of dropped filters to the mean length of their layer's kept ones.

    A batch norm divides by the deviation of what it reads, so the gradient of a filter at zero
    behind it is 1 / sqrt(1e-5) = 316 times what it is otherwise. One step along it would make the
    filter the largest of its layer.

    Args:
        network: The network, with gradients.
        kept: Whether each unit is kept, shape [units].
    """
    for name, parameter, dim, rows in _producers(network, kept):
        if name != "weight" or parameter.grad is None:
            continue
        gradient = parameter.grad.movedim(dim, 0)
        lengths = gradient.flatten(1).norm(dim=1)
        others = torch.ones_like(lengths, dtype=torch.bool)
        others[rows] = False
        factors = (lengths[others].mean() / lengths[rows].clamp_min(1e-30)).clamp_max(1.0)
        gradient[rows] *= factors.view(-1, *[1] * (gradient.ndim - 1))


def _producers(
    network: Network, kept: np.ndarray
) -> Iterator[tuple[str, nn.Parameter, int, Tensor]]:
    """Yields what makes dropped units and learns: a parameter's name, itself, an axis, places."""
    for layer in network.layers.values():
        if layer.outputs is None:
            continue
        module = network.model.get_submodule(layer.name)
        for name, ((dim, units), *_) in layer.cuts.items():
            rows = _dropped(units, kept)
            parameter = module.get_parameter(name)
            if len(rows) and parameter.requires_grad:
                yield name, parameter, dim, rows.to(parameter.device)


def _learnt(module: nn.Module) -> list[nn.Parameter]:
    """Returns a layer's own parameters, but for frozen ones."""
    return [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]


def _dropped(units: Units, kept: np.ndarray) -> Tensor:
    """Returns the positions of an axis whose units are not kept."""
    return torch.from_numpy(np.flatnonzero(~np.append(kept, True)[units]))
