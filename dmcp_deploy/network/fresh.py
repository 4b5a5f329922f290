"""Random weights in place of those that a model came with."""

from __future__ import annotations

import torch
from torch import nn


def forget_weights(model: nn.Module, seed: int) -> None:
    """Draws the weights of a model's layers anew, each as its own type does, in place.

    Frozen parameters stay, and so do those that belong to no layer with an initialisation.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            learnt = [p.requires_grad for p in module.parameters(recurse=False)]
            if learnt and all(learnt) and callable(getattr(module, "reset_parameters", None)):
                module.reset_parameters()  # type: ignore[operator]
