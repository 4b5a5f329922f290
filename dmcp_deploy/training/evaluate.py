"""Batch-norm recalibration, and accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dmcp_deploy.training.data import Batch
from dmcp_deploy.training.precision import Precision


@dataclass(frozen=True)
class Accuracy:
    """How well a network classifies.

    Attributes:
        top1: Share of images whose best class is right, in [0, 1].
        loss: Mean cross entropy.
        images: Images looked at.
        image_size: Their side in pixels.
    """

    top1: float
    loss: float
    images: int
    image_size: int

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return asdict(self)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Batch], precision: Precision) -> None:
    """Recomputes the running statistics of every batch norm, in place.

    They become the cumulative average over all given batches (momentum None), as a network whose
    weights were trained at other widths needs before it is evaluated.
    """
    norms = _batch_norms(model)
    with _evaluating(model), _cumulative(norms):
        for batch in batches:
            with precision.autocast():
                model(precision.move(batch).images)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch], precision: Precision) -> Accuracy:
    """Returns the accuracy of a model in evaluation mode over batches."""
    right = images = size = 0
    loss = 0.0
    with _evaluating(model):
        for batch in batches:
            moved = precision.move(batch)
            with precision.autocast():
                logits = model(moved.images).float()
            right += int((logits.argmax(1) == moved.labels).sum())
            loss += float(F.cross_entropy(logits, moved.labels, reduction="sum"))
            images += len(moved.labels)
            size = moved.images.shape[-1]
    return Accuracy(right / max(1, images), loss / max(1, images), images, size)


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode but for batch norms, which use each batch's statistics.

    Every module is put back into its own mode at the end.
    """
    with _evaluating(model):
        for norm in _batch_norms(model):
            norm.train()
        yield


def _batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode, and every module back into its own at the end."""
    modes = [module.training for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode


@contextmanager
def _cumulative(norms: list[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Lets batch norms start afresh and average over all batches; restores their momenta."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
