"""Random weights of a narrowed network, scaled to how much its filters read."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.layers import WEIGHTED, rule_for


@torch.no_grad()
def match_fan_in(network: Network, dense: nn.Module) -> None:
    """Scales random weights so that activations deviate as those of the full network, in place.

    A filter that is drawn for N inputs and reads n of them ends sqrt(n / N) too low, layer upon
    layer: without normalisation the signal dies out. Multiplied by sqrt(N / n) it ends where the
    full network's does, whatever its initialisation is; its norm, which sets the pace of learning
    in front of a normalisation, is the full one's too. Biases stay, and so does what is frozen.

    Args:
        network: The full network, with random weights.
        dense: What `slice_network` returned of it.
    """
    for layer in network.layers.values():
        if layer.kind not in WEIGHTED:
            continue
        full, narrow = (model.get_submodule(layer.name) for model in (network.model, dense))
        weight = _scaling(narrow)
        if weight.requires_grad:
            weight.mul_(math.sqrt(_fan_in(full, layer.kind) / _fan_in(narrow, layer.kind)))


def _scaling(module: nn.Module) -> Tensor:
    """Returns the parameter that a layer's output grows with."""
    rule = rule_for(module)
    assert rule is not None
    return module.get_parameter(rule.scaling)


def _fan_in(module: nn.Module, kind: str) -> int:
    """Returns how many weights an output of a layer is the sum over (transposed: at stride 1)."""
    weight = module.get_parameter("weight")
    if kind == "transposed":
        return weight[:, 0].numel() // int(module.groups)  # type: ignore[arg-type]
    return weight[0].numel()
