"""The optimiser of network weights."""

from __future__ import annotations

import torch
from torch import nn

from dmcp_deploy.training.recipe import Schedule


def weight_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.SGD:
    """Returns SGD with Nesterov momentum 0.9; no weight decay on normalisation and biases."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=schedule.lr, momentum=0.9, nesterov=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
