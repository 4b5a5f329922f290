"""The moving average of a network's weights, which is evaluated and deployed in their place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

#: How the average's tensors are named in a checkpoint.
PREFIX = "average."


class WeightAverage:
    """Averages a network's parameters and running statistics over steps, exponentially.

    The statistics of batch norms are averaged like weights: they then belong to the same steps,
    and to the size of image that these steps saw. At first the decay is (1 + step) / (10 + step),
    so that the random start is forgotten.
    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992.

    Args:
        model: The network.
        decay: Weight of what is there in each step, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self._values = {name: tensor.clone() for name, tensor in self._floating().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the network's weights as they are behind a step, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        current = self._floating()
        torch._foreach_lerp_(
            list(self._values.values()), [current[name] for name in self._values], 1 - decay
        )

    @torch.no_grad()
    def put(self) -> None:
        """Writes the average into the network."""
        for name, tensor in self._floating().items():
            tensor.copy_(self._values[name])

    def tensors(self) -> dict[str, Tensor]:
        """Returns the average."""
        return {f"{PREFIX}{name}": tensor for name, tensor in self._values.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` returned."""
        for name, tensor in self._values.items():
            tensor.copy_(tensors[f"{PREFIX}{name}"])

    def _floating(self) -> dict[str, Tensor]:
        state = self._model.state_dict()
        return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
