"""Training a pruned network: from labels alone, or by in-place distillation."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.training.average import WeightAverage
from dmcp_deploy.training.checkpoint import load_optimizer, optimizer_tensors
from dmcp_deploy.training.distributed import average_gradients
from dmcp_deploy.training.evaluate import running_statistics
from dmcp_deploy.training.optimizer import set_lr, weight_optimizer
from dmcp_deploy.training.precision import Precision
from dmcp_deploy.training.recipe import Recipe
from dmcp_deploy.training.sandwich import Keeps, read_figures, sandwich_gradients


class DenseTask:
    """Trains a dense network from hard labels."""

    def __init__(self, model: nn.Module, recipe: Recipe, steps: int, precision: Precision) -> None:
        self._model = precision.place(model).train()
        self._recipe, self._steps, self._precision = recipe, steps, precision
        self._optimizer = weight_optimizer(model, recipe.train)
        self._average = WeightAverage(self._model, recipe.ema_decay) if recipe.ema_decay else None

    def step(self, step: int, batch: Batch) -> Mapping[str, float]:
        """Does one step and returns the loss, the accuracy on the batch and the learning rate."""
        lr = self._recipe.train.lr_at(step, self._steps)
        set_lr(self._optimizer, lr)
        moved = self._precision.move(batch)
        self._optimizer.zero_grad(set_to_none=True)
        figures = self._gradients(moved)
        moving = running_statistics(self._model)
        average_gradients(self._model.parameters(), [*figures.values(), *moving])
        self._optimizer.step()
        if self._average is not None:
            self._average.update(step)
        return {**read_figures(figures), "lr": lr}

    def finish(self) -> None:
        """Leaves in the network what is to be evaluated and saved, behind the last step."""
        if self._average is not None:
            self._average.put()

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        with self._precision.autocast():
            logits = self._model(batch.images)
        smoothing = self._recipe.label_smoothing
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        right = (logits.detach().argmax(1) == batch.labels).float().mean()
        return {"loss": loss.detach(), "top1": right}

    def tensors(self) -> dict[str, Tensor]:
        """Returns weights and momenta, and the weights' average if there is one."""
        weights = {f"model.{name}": t for name, t in self._model.state_dict().items()}
        average = {} if self._average is None else self._average.tensors()
        return {**weights, **average, **optimizer_tensors(self._optimizer, "optimizer")}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` returned."""
        own = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        self._model.load_state_dict(own)
        if self._average is not None:
            self._average.load(tensors)
        load_optimizer(self._optimizer, tensors, "optimizer")


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
