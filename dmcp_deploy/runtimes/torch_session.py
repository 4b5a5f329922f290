"""A network in torch itself, eager: what the other runtimes are compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dmcp_deploy.data.layout import in_channels_last
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.registry import choose
from dmcp_deploy.runtimes.interface import ImageShape, check_threads, misfit
from dmcp_deploy.runtimes.sampler import (
    EVENTS,
    EVENTS_GRAPH,
    WALL_TRANSFERS,
    Clock,
    Sampler,
    by_wall,
)

_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_GRAPH_WARMUPS = 3


def open_network(
    network: nn.Module, path: Path, image: tuple[int, int, int], threads: int
) -> TorchSession:
    """Returns a copy of a network, on CUDA where there is any (see `TorchSession`)."""
    return TorchSession(network, path, image, threads)


class TorchSession:
    """A copy of a network in evaluation mode; a context manager that owns it.

    It lies in memory with its channels last, unless its forward needs contiguous memory.

    Attributes:
        path: The file that its weights came from.
        threads: Threads of one operator on a CPU; 0 leaves the number to torch.
        device: "cpu" or "cuda".
    """

    def __init__(
        self,
        network: nn.Module,
        path: Path,
        image: tuple[int, int, int],
        threads: int = 0,
        *,
        device: str = "auto",
        precision: str = "fp32",
    ) -> None:
        """Copies the network to its device.

        Args:
            network: Takes images [N, C, H, W] and returns logits [N, classes]; left as it is.
            path: The file that its weights came from.
            image: (C, H, W) of one image.
            threads: Threads of one operator on a CPU; 0 leaves the number to torch.
            device: "cpu", "cuda", or "auto" for CUDA where there is any.
            precision: What it computes in: "fp32", "fp16" or "bf16".

        Raises:
            DmcpError: There is no CUDA device, or no room on it.
        """
        check_threads(threads)
        self.path, self.threads, self._image = Path(path), threads, image
        self.device = _device(device)
        self._type = _TYPES[choose("--precision", precision, _TYPES)]
        self._order = torch.channels_last
        self._network: nn.Module | None = self._on_device(network)
        if not self._takes_order():
            self._order = torch.contiguous_format
            self._network = self._on_device(network)
        self._threads_before = torch.get_num_threads()

    def __enter__(self) -> TorchSession:
        """Sets the number of threads, which is torch's for the whole process."""
        self._threads_before = torch.get_num_threads()
        if self.threads:
            torch.set_num_threads(self.threads)
        return self

    def __exit__(self, *error: Any) -> None:
        """Frees the network and sets the number of threads to what it was."""
        self._network = None
        if self.threads:
            torch.set_num_threads(self._threads_before)

    @property
    def input_shape(self) -> ImageShape:
        """(None, C, H, W): any number of images."""
        return (None, *self._image)

    @property
    def runtime(self) -> str:
        """What runs the network, and where."""
        return f"torch {self.device}"

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the logits [N, classes] of images [N, C, H, W], both float32.

        Raises:
            DmcpError: The images do not fit, or the network fails on them.
        """
        wanted = ("N", *self._image)
        if images.dtype != "float32" or tuple(images.shape[1:]) != self._image:
            raise misfit(self.path, images, wanted, "the network was made for others")
        try:
            logits = self._logits(self._moved(images)).float().cpu()
        except RuntimeError as err:
            raise misfit(self.path, images, wanted, reason_of(err)) from err
        array: npt.NDArray[np.float32] = logits.numpy()
        return array

    def sampler(self, images: npt.NDArray[np.float32], clock: Clock) -> Sampler:
        """Returns how runs on images [N, C, H, W] are timed: on CUDA eager unless asked otherwise.

        On a CPU the images are in torch's memory format before the time begins.

        Raises:
            DmcpError: The clock is for CUDA, and this is none; or there is no room on the GPU.
        """
        self.run(images)  # a failure is told in a sentence here
        if self.device == "cpu":
            given = self._moved(images)
            return by_wall(lambda: self._logits(given))
        if clock.transfers:
            return by_wall(lambda: self.run(images), WALL_TRANSFERS)
        given = self._moved(images)
        if clock.graph:
            return Sampler(EVENTS_GRAPH, _by_events(self._graph(given)))
        return Sampler(EVENTS, _by_events(lambda: self._logits(given)))

    def _on_device(self, network: nn.Module) -> nn.Module:
        """Returns a copy of a network on the device, its filters in memory as passes want them."""
        try:
            placed = copy.deepcopy(network).eval().to(self.device, self._type)
            return in_channels_last(placed) if self._order is torch.channels_last else placed
        except torch.OutOfMemoryError as err:
            raise DmcpError(f"{self.path} has no room on the GPU ({reason_of(err)}).") from err

    def _takes_order(self) -> bool:
        """Returns whether the network runs on an image whose channels come last in memory."""
        image = np.zeros((1, *self._image), dtype=np.float32)
        try:
            self._logits(self._moved(image))
        except RuntimeError as err:
            # What else fails on an image fails in any order, and is told when it is run.
            return "view" not in str(err)
        return True

    def _moved(self, images: npt.NDArray[np.float32]) -> Tensor:
        given = torch.from_numpy(images)
        return given.to(self.device, self._type, memory_format=self._order)

    def _logits(self, images: Tensor) -> Tensor:
        assert self._network is not None, "the session is closed"
        with torch.inference_mode():
            logits: Tensor = self._network(images)
        return logits

    def _graph(self, images: Tensor) -> Callable[[], None]:
        """Returns a call that enqueues the network's recorded work on those images."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_GRAPH_WARMUPS):  # the first runs choose kernels and take memory
                self._logits(images)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits(images)
        return partial(_replay, graph, images)


def _replay(graph: torch.cuda.CUDAGraph, _images: Tensor) -> None:
    """Enqueues recorded work, whose images must live as long as it does."""
    graph.replay()


def _by_events(enqueue: Callable[[], object]) -> Callable[[], float]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

    def sample_ms() -> float:
        start.record()
        enqueue()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    return sample_ms


def _device(asked: str) -> str:
    choose("device", asked, ("auto", "cpu", "cuda"))
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cuda" and not torch.cuda.is_available():
        raise DmcpError("torch finds no CUDA device here: dmcp-deploy doctor shows why.")
    return asked
