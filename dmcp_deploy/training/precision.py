"""The arithmetic of a training run: device, data type, memory format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from dmcp_deploy.data.types import Batch
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.training.strided_depthwise import quick_strided_depthwise
from dmcp_deploy.training.sync_norm import synced_norms

MODES = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Precision:
    """Where and how passes are computed.

    Attributes:
        device: The device.
        bf16: Whether convolutions and products run in bfloat16 (weights stay FP32).
        sync_bn: Whether batch norms that train look at the images of all processes.
    """

    device: torch.device
    bf16: bool
    sync_bn: bool = False

    def autocast(self) -> AbstractContextManager[object]:
        """Returns the context in which forward passes run."""
        contexts: list[AbstractContextManager[object]] = []
        if self.bf16:
            contexts.append(torch.autocast(self.device.type, dtype=torch.bfloat16))
            if self.device.type == "cpu":
                contexts.append(quick_strided_depthwise())
        if self.sync_bn:
            contexts.append(synced_norms())
        return _all_of(contexts)

    def alone(self) -> Precision:
        """Returns the same for passes that other processes do not make at the same time."""
        return replace(self, sync_bn=False)

    def place(self, model: nn.Module) -> nn.Module:
        """Moves a model to the device, weights in channels-last order; returns it."""
        return model.to(device=self.device, memory_format=torch.channels_last)  # type: ignore

    def move(self, batch: Batch) -> Batch:
        """Returns a batch on the device, in channels-last order."""
        images = batch.images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return Batch(images, batch.labels.to(self.device, non_blocking=True))


def choose_precision(device: str = "auto", mode: str = "auto") -> Precision:
    """Returns the precision for a device: bf16 where the hardware computes in it.

    Args:
        device: "auto" (CUDA if there is any), "cpu", "cuda" or "cuda:N".
        mode: "auto", "fp32" or "bf16".

    Raises:
        DmcpError: The device is not there, or the mode is unknown.
    """
    if mode not in MODES:
        raise DmcpError(f"The precision {mode!r} is unknown: choose one of {', '.join(MODES)}.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as err:
        raise DmcpError(f"The device {device!r} is unknown: choose auto, cpu or cuda.") from err
    if chosen.type not in ("cpu", "cuda"):
        raise DmcpError(f"The device {device!r} is not supported: choose auto, cpu or cuda.")
    found = torch.cuda.device_count()
    if chosen.type == "cuda" and (chosen.index or 0) >= found:
        raise DmcpError(
            f"The device {device} was asked for, and torch finds {found} CUDA devices: choose"
            " cpu, or cuda:N with a smaller N."
        )
    return Precision(chosen, mode == "bf16" or (mode == "auto" and _computes_bf16(chosen)))


@contextmanager
def _all_of(contexts: Sequence[AbstractContextManager[object]]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def _computes_bf16(device: torch.device) -> bool:
    # A CPU computes in FP32 unless asked: many only emulate bf16, and what is computed should not
    # depend on which CPU it is.
    return device.type == "cuda" and bool(torch.cuda.is_bf16_supported(including_emulation=False))
