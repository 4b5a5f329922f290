"""The sandwich rule with in-place distillation: one step over several widths at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.selection import Borrowed
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import Keep
from dmcp_deploy.training.precision import Precision

Keeps = Mapping[str, int | Keep]


def sandwich_gradients(
    supernet: Supernet,
    batch: Batch,
    narrow: Sequence[Keeps],
    label_smoothing: float,
    precision: Precision,
) -> dict[str, Tensor]:
    """Adds up the gradients of the full network and of narrower ones on the shared weights.

    The full network learns from the labels; its detached output is what every narrower network
    learns from (Kullback-Leibler divergence at temperature 1, no labels). Each pass runs
    backward before the next one starts, so that memory stays that of one pass.

    Args:
        supernet: The network in training mode.
        batch: Images [N, 3, H, W] and labels [N].
        narrow: The widths of each narrower network.
        label_smoothing: Of the hard labels.
        precision: The arithmetic of the passes.

    Returns:
        The losses, still on the device: "loss" of the full network, "distill" the mean over the
        narrower ones.
    """
    with precision.autocast():
        logits = supernet(batch.images)
    loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=label_smoothing)
    loss.backward()  # type: ignore[no-untyped-call]
    teacher = F.softmax(logits.detach().float(), dim=1)
    distilled = [_distill(supernet, batch.images, keeps, teacher, precision) for keeps in narrow]
    total = torch.stack(distilled).mean() if distilled else torch.zeros_like(teacher[0, 0])
    return {"loss": loss.detach(), "distill": total}


def read_figures(figures: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns figures as numbers, in one transfer; it waits for the device, so it comes last."""
    return dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True))


def _distill(
    supernet: Supernet, images: Tensor, keeps: Keeps, teacher: Tensor, precision: Precision
) -> Tensor:
    borrowed = Borrowed()
    with precision.autocast():
        logits = supernet(images, keeps, borrowed=borrowed)
    loss = F.kl_div(F.log_softmax(logits.float(), dim=1), teacher, reduction="batchmean")
    loss.backward()  # type: ignore[no-untyped-call]
    borrowed.hand_back()
    return loss.detach()
