"""Training a pruned network: from labels alone, or by in-place distillation.

Its weights may be averaged over the steps; the average is evaluated and deployed in their place.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.aliases import tensors_of
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.training.distributed import average_gradients
from dmcp_deploy.training.evaluate import running_statistics
from dmcp_deploy.training.precision import Precision
from dmcp_deploy.training.recipe import Recipe
from dmcp_deploy.training.sandwich import Keeps, read_figures, sandwich_gradients
from dmcp_deploy.training.task import TrainedWeights

#: Before the names of the average's tensors in a checkpoint.
AVERAGE = "average."


class DenseTask:
    """Trains a dense network from hard labels."""

    def __init__(self, model: nn.Module, recipe: Recipe, steps: int, precision: Precision) -> None:
        self._model = precision.place(model).train()
        self._recipe, self._steps, self._precision = recipe, steps, precision
        self._weights = TrainedWeights(model, recipe.train, steps)
        self._average = WeightAverage(self._model, recipe.ema_decay) if recipe.ema_decay else None

    def step(self, step: int, batch: Batch) -> Mapping[str, float]:
        """Does one step and returns the loss, the accuracy on the batch and the learning rate."""
        lr = self._weights.start(step)
        figures = self._gradients(self._precision.move(batch))
        statistics = running_statistics(self._model)
        average_gradients(self._model.parameters(), [*figures.values(), *statistics])
        self._weights.move()
        if self._average is not None:
            self._average.update(step)
        return {**read_figures(figures), "lr": lr}

    def finish(self) -> None:
        """Leaves in the network what is to be evaluated and saved, behind the last step."""
        if self._average is not None:
            self._average.put()

    def tensors(self) -> dict[str, Tensor]:
        """Returns weights and momenta, and the weights' average if there is one."""
        average = {} if self._average is None else self._average.tensors()
        return {**self._weights.tensors(), **average}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` returned."""
        self._weights.load(tensors)
        if self._average is not None:
            self._average.load(tensors)

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        with self._precision.autocast():
            logits = self._model(batch.images)
        smoothing = self._recipe.label_smoothing
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        right = (logits.detach().argmax(1) == batch.labels).float().mean()
        return {"loss": loss.detach(), "top1": right}


class DistillTask(DenseTask):
    """Trains the full network from labels and, on its weights, the pruned one from its output.

    The starred rows of DMCP's table (in-place distillation, from slimmable networks).
    """

    def __init__(
        self, supernet: Supernet, keeps: Keeps, recipe: Recipe, steps: int, precision: Precision
    ) -> None:
        super().__init__(supernet.model, recipe, steps, precision)
        self._supernet, self._keeps = supernet.train(), keeps

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        return sandwich_gradients(
            self._supernet, batch, [self._keeps], self._recipe.label_smoothing, self._precision
        )


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
        return {f"{AVERAGE}{name}": tensor for name, tensor in self._values.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` returned."""
        for name, tensor in self._values.items():
            tensor.copy_(tensors[f"{AVERAGE}{name}"])

    def _floating(self) -> dict[str, Tensor]:
        state = tensors_of(self._model)
        return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
