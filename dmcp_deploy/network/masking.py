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
    for module, rows in _producers(network, kept):
        weight = module.get_parameter("weight")
        if weight.requires_grad:
            weight[rows] = 0.0


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
    for module, rows in _producers(network, kept):
        for parameter in _learnt(module):
            parameter[rows] = 0.0
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
    for module, rows in _producers(network, kept):
        gradient = module.get_parameter("weight").grad
        if gradient is None:
            continue
        lengths = gradient.flatten(1).norm(dim=1)
        others = torch.ones_like(lengths, dtype=torch.bool)
        others[rows] = False
        factors = (lengths[others].mean() / lengths[rows].clamp_min(1e-30)).clamp_max(1.0)
        gradient[rows] *= factors.view(-1, *[1] * (gradient.ndim - 1))


def _producers(network: Network, kept: np.ndarray) -> Iterator[tuple[nn.Module, Tensor]]:
    """Yields each layer that produces dropped units, with the numbers of their filters."""
    for layer in network.layers.values():
        if layer.outputs is not None:
            module = network.model.get_submodule(layer.name)
            rows = _dropped(layer.outputs, kept)
            if len(rows):
                yield module, rows.to(module.get_parameter("weight").device)


def _learnt(module: nn.Module) -> list[nn.Parameter]:
    """Returns a layer's own parameters, but for frozen ones."""
    return [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]


def _dropped(units: Units, kept: np.ndarray) -> Tensor:
    """Returns the positions of an axis whose units are not kept."""
    return torch.from_numpy(np.flatnonzero(~np.append(kept, True)[units]))
