"""What a loop repeats, and what tasks have in common: weights, optimisers, state to save."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.aliases import tensors_of
from dmcp_deploy.training.recipe import Schedule
from dmcp_deploy.training.weights import load_weights

_MODEL = "model."  # before the names of a network's tensors


class Task(Protocol):
    """What a loop repeats: one step, and the state that it changes."""

    def step(self, step: int, batch: Batch) -> Mapping[str, float]:
        """Does one step and returns its figures; a bar leaves out those named "A/B"."""

    def tensors(self) -> dict[str, Tensor]:
        """Returns everything that steps change."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` returned."""


class TrainedWeights:
    """A network's weights, and the optimiser that moves them along a schedule."""

    def __init__(self, model: nn.Module, schedule: Schedule, steps: int) -> None:
        """Prepares `steps` steps; the model's parameters stay the ones they are."""
        self._model, self._schedule, self._steps = model, schedule, steps
        self._optimizer = weight_optimizer(model, schedule)

    def start(self, step: int) -> float:
        """Drops all gradients and sets the learning rate of a step in 0..steps-1; returns it."""
        lr = self._schedule.lr_at(step, self._steps)
        set_lr(self._optimizer, lr)
        self._optimizer.zero_grad(set_to_none=True)
        return lr

    def move(self) -> None:
        """Moves the weights against their gradients."""
        self._optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """Returns parameters, buffers and momenta as named tensors."""
        model = {f"{_MODEL}{name}": tensor for name, tensor in tensors_of(self._model).items()}
        return {**model, **optimizer_tensors(self._optimizer, "optimizer")}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` returned; other tensors are passed over."""
        state = {k.removeprefix(_MODEL): t for k, t in tensors.items() if k.startswith(_MODEL)}
        load_weights(self._model, state, "The checkpoint")
        load_optimizer(self._optimizer, tensors, "optimizer")


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


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Returns an optimiser's state as named tensors."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{index}.{key}": value
        for index, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str
) -> None:
    """Restores what `optimizer_tensors` returned; other tensors are passed over."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(f"{prefix}."):
            index, key = name.removeprefix(f"{prefix}.").split(".", 1)
            # Files hold rows in order; in the parameter's own order of memory (channels last) the
            # next step runs through the same code and rounds alike.
            # Adam's count of steps has a shape of its own.
            parameter = parameters[int(index)]
            like = torch.empty_like(parameter if parameter.shape == value.shape else value)
            state.setdefault(int(index), {})[key] = like.copy_(value)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
