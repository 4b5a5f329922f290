"""The sandwich rule with in-place distillation: one step over several widths at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import Keep
from dmcp_deploy.training.data import Batch
from dmcp_deploy.training.precision import Precision

Keeps = Mapping[str, int | Keep]


def sandwich_gradients(
    supernet: Supernet,
    batch: Batch,
    narrow: Sequence[Keeps],
    label_smoothing: float,
    precision: Precision,
) -> dict[str, float]:
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
        The losses: "loss" of the full network, "distill" the mean over the narrower ones.
    """
    with precision.autocast():
        logits = supernet(batch.images)
    loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=label_smoothing)
    loss.backward()  # type: ignore[no-untyped-call]
    teacher = F.softmax(logits.detach().float(), dim=1)
    distilled = [_distill(supernet, batch.images, keeps, teacher, precision) for keeps in narrow]
    total = torch.stack([loss.detach(), *distilled]).tolist()
    return {"loss": total[0], "distill": sum(total[1:]) / max(1, len(narrow))}


def _distill(
    supernet: Supernet, images: Tensor, keeps: Keeps, teacher: Tensor, precision: Precision
) -> Tensor:
    with precision.autocast():
        logits = supernet(images, keeps)
    loss = F.kl_div(F.log_softmax(logits.float(), dim=1), teacher, reduction="batchmean")
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()
