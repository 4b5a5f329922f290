"""One latency sample of a loaded network: what is timed, and by which clock."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.cuda.device import Device
from dmcp_deploy.runtimes.session import Session

#: The time of a call on the host, whose memory the images and the logits lie in.
WALL = "wall"
#: The GPU's own time between two CUDA events: images and logits stay on the device.
EVENTS = "events"
#: The same of work that was recorded as a CUDA graph.
EVENTS_GRAPH = "events+graph"
#: The time of a call on the host that copies images to the GPU and logits from it.
WALL_TRANSFERS = "wall with transfers"

#: What each is called in a sentence.
TIMINGS = {
    WALL: "by the host's clock",
    EVENTS: "by CUDA events, without transfers and without a CUDA graph",
    EVENTS_GRAPH: "by CUDA events, without transfers, as a CUDA graph",
    WALL_TRANSFERS: "by the host's clock, transfers counted",
}


@dataclass(frozen=True)
class Sampler:
    """How a loaded network is timed.

    Attributes:
        timing: "wall", "events", "events+graph" or "wall with transfers".
        sample_ms: Runs the network once and returns the milliseconds.
    """

    timing: str
    sample_ms: Callable[[], float]


@dataclass(frozen=True)
class Clock:
    """How networks on a GPU are to be timed; what runs on a CPU has one way.

    Attributes:
        graph: Whether as a CUDA graph; None where the session prefers it and can.
        transfers: Whether images and logits are copied within the time; not as a graph.
    """

    graph: bool | None = None
    transfers: bool = False

    def __post_init__(self) -> None:
        if self.graph and self.transfers:
            raise DmcpError(
                "--graph and --transfers exclude one another: a graph is timed on the device"
                " alone; leave one of them out."
            )

    @property
    def is_asked(self) -> bool:
        """Whether anything but the usual way is asked for."""
        return self.graph is not None or self.transfers


@runtime_checkable
class DeviceSession(Protocol):
    """A session whose network may run on a GPU, and that knows how to time it there."""

    def sampler(self, images: npt.NDArray[np.float32], clock: Clock) -> Sampler:
        """Returns how runs on images [N, C, H, W] are timed; it holds until the next run.

        Raises:
            DmcpError: The clock cannot be had here.
        """


def make_sampler(session: Session, images: npt.NDArray[np.float32], clock: Clock) -> Sampler:
    """Returns how a session's runs on images [N, C, H, W] are timed.

    Raises:
        DmcpError: The clock cannot be had here.
    """
    if isinstance(session, DeviceSession):
        return session.sampler(images, clock)
    return by_wall(functools.partial(session.run, images))


def by_wall(call: Callable[[], object], timing: str = WALL) -> Sampler:
    """Returns a sampler of a call that is done when it returns."""
    return Sampler(timing, functools.partial(time_ms, call))


def by_events(device: Device, enqueue: Callable[[], object], timing: str = EVENTS) -> Sampler:
    """Returns a sampler of work that a call enqueues on a device's stream."""
    start, end = device.event(), device.event()

    def sample_ms() -> float:
        device.record(start)
        enqueue()
        device.record(end)
        return device.elapsed_ms(start, end)

    return Sampler(timing, sample_ms)


def time_ms(call: Callable[[], object]) -> float:
    """Returns the milliseconds that a call takes on the host."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6
