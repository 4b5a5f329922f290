"""The arithmetic of a training run: device, data type, memory format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from dmcp_deploy.data.layout import in_channels_last
from dmcp_deploy.data.types import Batch
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.registry import near_matches
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
        channels_last: Whether images and filters lie in memory with their channels last.
    """

    device: torch.device
    bf16: bool
    sync_bn: bool = False
    channels_last: bool = True

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Runs forward passes in its context."""
        with ExitStack() as stack:
            if self.bf16:
                stack.enter_context(torch.autocast(self.device.type, dtype=torch.bfloat16))
                if self.device.type == "cpu":
                    stack.enter_context(quick_strided_depthwise())
            if self.sync_bn:
                stack.enter_context(synced_norms())
            yield

    def alone(self) -> Precision:
        """Returns the same for passes that other processes do not make at the same time."""
        return replace(self, sync_bn=False)

    def place(self, model: nn.Module) -> nn.Module:
        """Moves a model to the device, its filters in memory as passes want them; returns it."""
        model = model.to(self.device)
        return in_channels_last(model) if self.channels_last else model

    def move(self, batch: Batch) -> Batch:
        """Returns a batch on the device, its images in memory as passes want them."""
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        images = batch.images.to(self.device, non_blocking=True, memory_format=order)
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
        raise DmcpError(
            f"--precision {mode!r} is unknown: choose one of {', '.join(MODES)} to train in"
            f"{near_matches(mode, MODES)}"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as err:
        raise DmcpError(f"The device {device!r} is unknown: choose auto, cpu or cuda.") from err
    if chosen.type not in ("cpu", "cuda"):
        raise DmcpError(f"The device {device!r} is not supported: choose auto, cpu or cuda.")
    devices = torch.cuda.device_count()
    if chosen.type == "cuda" and (chosen.index or 0) >= devices:
        raise DmcpError(
            f"The device {device} was asked for, and torch finds {devices} CUDA devices: choose"
            " cpu, or cuda:N with a smaller N."
        )
    bf16 = mode == "bf16"
    # A CPU computes in FP32 unless asked: many only emulate bf16, and what is computed should not
    # depend on which CPU it is.
    if mode == "auto" and chosen.type == "cuda":
        bf16 = bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return Precision(chosen, bf16)
