"""Recalibration of the norms' statistics, and accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dmcp_deploy.data.size import recorded_size
from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.statistics import NORM_FUNCTIONS, keeps_statistics, norm_arguments
from dmcp_deploy.network.trace import evaluating
from dmcp_deploy.training.distributed import add_up
from dmcp_deploy.training.precision import Precision

#: The share of running statistics that may be older than the training.
_LAGGING = 0.01


@dataclass(frozen=True)
class Accuracy:
    """How well a network classifies.

    Attributes:
        top1: Share of images whose best class is right, in [0, 1].
        loss: Mean cross entropy.
        images: Images looked at.
        image_size: Their side in pixels; "32x96", height and width, where they are oblong.
    """

    top1: float
    loss: float
    images: int
    image_size: int | str

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return asdict(self)


@torch.no_grad()
def recalibrate(
    model: nn.Module, batches: Iterable[Batch], precision: Precision, *, shared: bool = False
) -> None:
    """Recomputes the running statistics of every norm that keeps some, in place.

    They become the cumulative average over all given batches, as a network whose weights were
    trained at other widths needs before it is evaluated. That holds for batch norms and instance
    norms, modules and functions; a norm that computes by itself moves its own by its own rule.

    Args:
        model: The network; the same in every process where they share the batches.
        batches: Training batches.
        precision: The arithmetic of the passes.
        shared: Whether these are one process's share, and the average goes over all processes'.
            Batch norms that look at all processes' images need as many batches in each.
    """
    precision = precision if shared else precision.alone()
    averages, count = _CumulativeAverages(model), 0
    with batch_statistics(model), _cumulative(model), averages:
        for batch in batches:
            with precision.autocast():
                model(precision.move(batch).images)
            count += 1
    if shared:
        moved = {id(t): t for t in (*running_statistics(model), *averages.statistics)}
        _average([*moved.values()], count, precision)


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], precision: Precision, *, shared: bool = False
) -> Accuracy:
    """Returns the accuracy of a model in evaluation mode over batches.

    Args:
        model: The network; the same in every process where they share the batches.
        batches: Images to judge by.
        precision: The arithmetic of the passes.
        shared: Whether these are one process's share, and all processes' images count, each once.
            However they are shared, the sums are the same but for the last digits of the loss.
    """
    # The sums stay on the device, so that no batch waits for the result of the one before.
    sums = torch.zeros(2, dtype=torch.float64, device=precision.device)
    images = rows = columns = 0
    with evaluating(model):
        for batch in batches:
            moved = precision.move(batch)
            with precision.autocast():
                logits = model(moved.images).float()
            right = (logits.argmax(1) == moved.labels).sum()
            loss = F.cross_entropy(logits, moved.labels, reduction="sum")
            sums += torch.stack([right.double(), loss.double()])
            images += len(moved.labels)
            rows += len(moved.labels) * moved.images.shape[-2]
            columns += len(moved.labels) * moved.images.shape[-1]
    sums = torch.cat([sums, sums.new_tensor([images, rows, columns])])
    hits, loss_sum, images, rows, columns = (add_up(sums) if shared else sums).tolist()
    count = max(1, int(images))
    size = (round(rows / count), round(columns / count))
    return Accuracy(hits / count, loss_sum / count, int(images), recorded_size(size))


def lags_behind(model: nn.Module, steps: int) -> bool:
    """Returns whether running statistics still hold much of what they were before training.

    After n steps of momentum m the first values weigh (1 - m)^n: at torch's 0.1 less than a
    hundredth from the 44th step on, at the 0.0003 of MNASNet from the 15,349th.
    """
    momenta = [m.momentum for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    return any(m and (1 - m) ** steps > _LAGGING for m in momenta)


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Returns the running means and variances of a model's norms."""
    norms = filter(keeps_statistics, model.modules())
    return [norm.get_buffer(n) for norm in norms for n in ("running_mean", "running_var")]


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode but for norms, which use each batch's statistics.

    Norms that the model itself keeps in evaluation mode while it trains stay so. Every module is
    put back into its own mode at the end.
    """
    with evaluating(model):
        model.train()
        moving = [m for m in model.modules() if m.training and keeps_statistics(m)]
        model.eval()
        for norm in moving:
            norm.train()
        yield


def _batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


class _CumulativeAverages(TorchFunctionMode):
    """Makes functions that normalise average the statistics of all batches that they see.

    Batch norms can do that by themselves; they stay as they are.

    Attributes:
        statistics: Running means and variances that have been averaged so.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.statistics: list[Tensor] = []
        self._able = {id(norm.running_mean) for norm in _batch_norms(model)}
        self._buffers = {id(buffer) for buffer in model.buffers()} - self._able
        self._counts: dict[int, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls a function, or the same that averages."""
        kwargs = kwargs or {}
        if func in NORM_FUNCTIONS:
            arguments = norm_arguments(func, args, kwargs)
            if id(arguments["running_mean"]) in self._buffers:
                images = arguments.pop("input")
                return func(images, **arguments | self._averaging(func, arguments))
        return func(*args, **kwargs)

    def _averaging(self, func: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        mean, var = arguments["running_mean"], arguments["running_var"]
        count = self._counts[id(mean)] = self._counts.get(id(mean), 0) + 1
        if count == 1:
            self.statistics += [mean.zero_(), var.zero_()]
        return {NORM_FUNCTIONS[func][0]: True, "momentum": 1 / count}


def _average(statistics: list[Tensor], count: int, precision: Precision) -> None:
    """Replaces each process's averages over `count` batches by those over all batches."""
    if not statistics:
        return
    flat = torch.cat([values.flatten() for values in statistics]).to(torch.float64)
    total = add_up(torch.cat([flat * count, flat.new_tensor([count])]))
    means = torch.split(total[:-1] / total[-1], [values.numel() for values in statistics])
    for values, mean in zip(statistics, means, strict=True):
        values.copy_(mean.view_as(values))


@contextmanager
def _cumulative(model: nn.Module) -> Iterator[None]:
    """Lets batch norms that move start afresh and average all batches; restores their momenta."""
    norms = [norm for norm in _batch_norms(model) if norm.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
