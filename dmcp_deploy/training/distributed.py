"""What a process needs to know of the others that torchrun has started beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dmcp_deploy.errors import DmcpError, LostPeerError, reason_of
from dmcp_deploy.machine.launched import is_launched

#: How long a process waits for the others within a step. One that has died is noticed by torchrun
#: at once; this is for one that hangs, and must be longer than the slowest batch takes to load.
STEP_TIMEOUT = timedelta(minutes=30)

#: How long the others wait while the first one works alone: exports, builds engines, measures.
WAIT_TIMEOUT = timedelta(hours=24)

_CHUNK = 1 << 22  # elements of a tensor whose digest is taken at once
_ODD = 0x1E3779B97F4A7C15


class _Host:
    """The group by which processes wait and agree without their GPUs."""

    group: Any = None


def rank() -> int:
    """Returns this process's number, 0 where it runs alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Returns the number of processes, 1 where this one runs alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Returns whether this process is the one that writes files and reports."""
    return rank() == 0


def join_torchrun(device: str = "auto") -> None:
    """Joins the process group if torchrun has started this process; else does nothing.

    Where there are GPUs, each process of a machine takes its own for "cuda", and they talk by
    NCCL; else, or on the device "cpu", by gloo.

    Raises:
        DmcpError: There are more processes than GPUs, or all are asked to take the same one.
    """
    if not is_launched():
        return
    if not dist.is_initialized():
        on_gpu = device != "cpu" and torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(_gpu_number(device))
        backend, meeting = "nccl" if on_gpu else "gloo", _meeting()
        with _talking():
            dist.init_process_group(backend, timeout=STEP_TIMEOUT, **meeting)
    if _Host.group is None:
        with _talking():
            _Host.group = dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)


def wait_for_all() -> None:
    """Returns once every process has come here."""
    if world_size() > 1:
        with _talking():
            dist.barrier(_Host.group)


def any_says(*flags: bool) -> tuple[bool, ...]:
    """Returns of each flag whether any process says yes: the same answers on all of them."""
    if world_size() == 1:
        return flags
    said = torch.tensor(flags, dtype=torch.uint8)
    _all_reduce(said, dist.ReduceOp.MAX, _Host.group)
    return tuple(map(bool, said.tolist()))


def text_from_first(text: str) -> str:
    """Returns the first process's text on each of them."""
    return bytes_from_first(text.encode()).decode()


def bytes_from_first(content: bytes) -> bytes:
    """Returns the first process's bytes on each of them."""
    if world_size() == 1:
        return content
    count = torch.tensor(len(content) if is_main() else 0)
    _all_reduce(count, dist.ReduceOp.MAX, _Host.group)
    sent = torch.zeros(int(count), dtype=torch.uint8)
    if is_main() and content:
        sent.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    if len(sent):
        _all_reduce(sent, dist.ReduceOp.MAX, _Host.group)
    return sent.numpy().tobytes()


def add_up(values: Tensor) -> Tensor:
    """Returns the sum of a tensor over the processes, the same on each of them."""
    total = values.clone()
    if world_size() > 1:
        _all_reduce(total)
    return total


def average(values: Tensor) -> Tensor:
    """Returns the mean of a tensor over the processes, the same on each of them."""
    return values if world_size() == 1 else add_up(values) / world_size()


def from_first(values: Tensor) -> Tensor:
    """Returns the first process's tensor on each of them."""
    if world_size() == 1:
        return values
    values = values.contiguous()
    return add_up(values if is_main() else torch.zeros_like(values))


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], also: Iterable[Tensor] = ()) -> None:
    """Replaces every gradient by its mean over the processes, in one reduction.

    Slices of shared weights leave different parameters without a gradient from step to step;
    those count as zero, the same on every process.

    Args:
        parameters: Those that require no gradient are left out.
        also: Further tensors to replace by their means, in the same reduction.
    """
    if world_size() == 1:
        return
    averaged = list(also)
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            averaged.append(parameter.grad)
    flat = torch.cat([tensor.flatten() for tensor in averaged])
    _all_reduce(flat)
    flat /= world_size()
    parts = torch.split(flat, [tensor.numel() for tensor in averaged])
    for tensor, part in zip(averaged, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def check_alike(tensors: Mapping[str, Tensor], when: str) -> None:
    """Checks that tensors are the same, bit for bit, on every process.

    Args:
        tensors: What must be the same; every process names the same tensors.
        when: Where the run stands, as the error says it.

    Raises:
        DmcpError: They differ.
    """
    if world_size() == 1:
        return
    digests = torch.stack([digest(tensor) for tensor in tensors.values()])
    # The largest of ~x is ~(the smallest x): one reduction finds both ends.
    ends = torch.cat([digests, ~digests])
    _all_reduce(ends, dist.ReduceOp.MAX, _Host.group)
    most, inverted = ends.chunk(2)
    differ = [name for name, same in zip(tensors, most == ~inverted, strict=True) if not same]
    if differ:
        others = f" and {len(differ) - 1} more" if len(differ) > 1 else ""
        raise DmcpError(
            f"{when}: the processes of this run have come apart, {differ[0]}{others} is not the"
            " same on all of them: start the same command again, which continues from the last"
            " checkpoint, where all agreed, and look for a faulty machine or one with other"
            " versions or files."
        )


@torch.no_grad()
def digest(tensor: Tensor) -> Tensor:
    """Returns a number over all bits of a tensor and their places, int64 [], on the CPU.

    It is a sum modulo 2^64 with odd factors, and taken where the tensor lies: whole numbers add
    up to the same in every order.
    """
    flat = tensor.detach().reshape(-1)
    bits = flat.view(_WHOLE[flat.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for number, part in enumerate(torch.split(bits, _CHUNK)):
        places = torch.arange(len(part), device=flat.device) + number * _CHUNK
        total += (part * ((2 * places + 1) * _ODD)).sum()
    return total.cpu()


#: Bytes of an element -> whole numbers of that size.
_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _meeting() -> dict[str, Any]:
    """Returns where the processes find one another, unless torch's own choice will do.

    torchrun's store outlives a restart, and with it the addresses of the processes before, which
    gloo would wait for. On one machine all know by which restart they were started.

    Raises:
        DmcpError: There are several machines, whose torchruns count restarts of their own.
    """
    env = os.environ
    restarts = env.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if env.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or restarts == "0":
        return {}
    if env.get("GROUP_WORLD_SIZE", "1") != "1":
        raise DmcpError(
            f"torchrun may restart {restarts} times here, and on several machines its processes"
            " would wait for those before them: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for every"
            " torchrun, or --max-restarts 0."
        )
    host, port, world = env["MASTER_ADDR"], int(env["MASTER_PORT"]), int(env["WORLD_SIZE"])
    with _talking():
        store = dist.TCPStore(  # type: ignore[attr-defined]
            host, port, world, is_master=False, timeout=STEP_TIMEOUT
        )
    prefix = f"dmcp-deploy/{env['TORCHELASTIC_RESTART_COUNT']}"
    restart_store = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
    return {"store": restart_store, "rank": int(env["RANK"]), "world_size": world}


def _gpu_number(device: str) -> int:
    """Returns the number of the GPU that this process takes for itself."""
    local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if local_rank >= gpus:
        raise DmcpError(
            f"torchrun has started {max(processes, local_rank + 1)} processes on this machine, and"
            f" torch finds {gpus} CUDA devices: start at most that many, or take --device cpu."
        )
    if ":" in device and processes > 1:
        raise DmcpError(
            f"--device {device} would be shared by {processes} processes: leave it out, and each"
            " takes a GPU of its own (CUDA_VISIBLE_DEVICES chooses among them)."
        )
    return local_rank


def _all_reduce(tensor: Tensor, *operation_and_group: Any) -> None:
    with _talking():
        dist.all_reduce(tensor, *operation_and_group)


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as err:  # the base of all that torch.distributed raises
        raise LostPeerError(
            f"Another process of this run has gone or does not answer ({reason_of(err)}): the same"
            " command continues from the last checkpoint."
        ) from err
