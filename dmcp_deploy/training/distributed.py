"""What a process needs to know of the others that torchrun has started beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    """Returns this process's number, 0 where it runs alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Returns the number of processes, 1 where this one runs alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Returns whether this process is the one that writes files and reports."""
    return rank() == 0


def join_torchrun() -> None:
    """Joins the process group if torchrun has started this process; else does nothing.

    Where there are GPUs, each process of a machine takes its own for "cuda".
    """
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def wait_for_all() -> None:
    """Returns once every process has come here."""
    if world_size() > 1:
        dist.barrier()


def add_up(values: Tensor) -> Tensor:
    """Returns the sum of a tensor over the processes, the same on each of them."""
    total = values.clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces every gradient by its mean over the processes, in one reduction.

    Slices of shared weights leave different parameters without a gradient from step to step;
    those count as zero, the same on every process.
    """
    if world_size() == 1:
        return
    owned = [p for p in parameters if p.requires_grad]
    for parameter in owned:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.flatten() for p in owned if p.grad is not None])
    dist.all_reduce(flat)
    flat /= world_size()
    start = 0
    for parameter in owned:
        count = parameter.numel()
        assert parameter.grad is not None
        parameter.grad.copy_(flat[start : start + count].view_as(parameter))
        start += count
