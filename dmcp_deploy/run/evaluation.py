"""A run's networks on its data: batch-norm recalibration, accuracy, logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dmcp_deploy.data.size import Size
from dmcp_deploy.data.types import Batch
from dmcp_deploy.run.context import RunContext
from dmcp_deploy.run.data import EVAL_BATCH
from dmcp_deploy.training import evaluate as training
from dmcp_deploy.training.distributed import rank, world_size
from dmcp_deploy.training.evaluate import Accuracy


def recalibrate(context: RunContext, model: nn.Module, title: str) -> None:
    """Recomputes a model's batch-norm statistics on some training batches, in place.

    All processes do it together, each on its share of the batches.
    """
    model = context.exact.place(model)
    count = context.recipe.recalibration_batches
    with context.compute.progress.task(title, count, unit="batch") as bar:
        batches = context.data.batches(context.recipe.search, 0, count, "recalibration")
        training.recalibrate(model, _counted(batches, bar.advance), context.exact, shared=True)


def evaluate(
    context: RunContext, model: nn.Module, title: str, image_size: Size | None = None
) -> Accuracy:
    """Returns a model's accuracy on the validation images.

    All processes do it together, each on its share of the images.
    """
    model = context.exact.place(model)
    size = image_size or context.data.image_size
    with _validation(context, title, size, rank(), world_size()) as share:
        return training.evaluate(model, share, context.exact, shared=True)


@torch.no_grad()
def logits(context: RunContext, model: nn.Module, title: str, image_size: Size) -> Tensor:
    """Returns a model's logits on all validation images, [M, classes], on the CPU."""
    model = context.exact.place(model).eval()
    with _validation(context, title, image_size) as batches:
        return torch.cat([model(context.exact.move(batch).images).cpu() for batch in batches])


@contextmanager
def _validation(
    context: RunContext, title: str, image_size: Size, first: int = 0, step: int = 1
) -> Iterator[Iterator[Batch]]:
    data, device = context.data, context.exact.device
    total = len(range(first, -(-data.validated // EVAL_BATCH), step))
    with context.compute.progress.task(title, total, unit="batch") as bar:
        yield _counted(data.validation_batches(image_size, first, step, device), bar.advance)


def _counted(batches: Iterator[Batch], done: Callable[[], None]) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        done()
