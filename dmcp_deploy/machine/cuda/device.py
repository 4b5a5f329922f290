"""A CUDA device's memory, stream, events and graphs, over pycuda or cuda-python."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.cuda.binding import (
    Binding,
    GraphCalls,
    Release,
    load_binding,
    pick_binding,
)
from dmcp_deploy.machine.cuda.driver import (
    CudaError,
    DeviceInfo,
    DriverInfo,
    choose_device,
    read_driver,
)
from dmcp_deploy.units import format_bytes


@dataclass(frozen=True, eq=False)
class DeviceBuffer:
    """Memory on the device, owned by the device that made it.

    Attributes:
        address: Where it starts, as CUDA and TensorRT take it.
        size_bytes: How much was asked for.
    """

    address: int
    size_bytes: int


@dataclass(frozen=True)
class Stream:
    """The device's queue of work.

    Attributes:
        handle: The CUstream, as TensorRT's execute_async_v3 takes it.
    """

    handle: int


@dataclass(frozen=True, eq=False)
class Event:
    """A moment in the stream; recorded and compared by the device that made it."""

    _handle: Any


class Graph:
    """Work that was recorded from the stream, and that `launch` enqueues again as a whole."""

    def __init__(self, launch: Callable[[], None]) -> None:
        """Made by `Device.capture`."""
        self._launch = launch

    def launch(self) -> None:
        """Enqueues the work on the stream; returns before it is done.

        Raises:
            DmcpError: CUDA refuses.
        """
        self._launch()


def open_device(binding: str = "auto", ordinal: int = 0) -> Device:
    """Returns a device, to be used in a `with` block: memory and context are taken on entering.

    Args:
        binding: "cuda-python", "pycuda", or "auto" for the first of them that is installed.
        ordinal: The device's number in CUDA.

    Raises:
        DmcpError: The library, the driver or the device is missing, or the driver is too old.
    """
    name = pick_binding(binding)
    driver = read_driver()
    info = choose_device(driver, ordinal)
    return Device(load_binding(name, driver), info, driver)


class Device:
    """A GPU of this process; a context manager that owns all memory it hands out.

    Entering makes the device's primary CUDA context, the one that TensorRT uses, current in this
    thread; leaving waits for the stream, frees everything and lets go of the context. Both belong
    to one thread, and a device is entered once.

    Attributes:
        binding: "cuda-python" or "pycuda".
        ordinal: Its number in CUDA.
        name: As NVIDIA calls it.
        compute_capability: (8, 7) for Orin.
        memory_bytes: All of its memory.
        driver: NVIDIA's driver.
    """

    def __init__(self, binding: Binding, info: DeviceInfo, driver: DriverInfo) -> None:
        """Made by `open_device`."""
        self.binding = binding.name
        self.ordinal = info.ordinal
        self.name = info.name
        self.compute_capability = info.compute_capability
        self.memory_bytes = info.memory_bytes
        self.driver = driver
        self._graphs = binding.graphs
        self._binding = binding
        self._stream: Any = None
        self._releases: dict[object, Release] = {}
        self._exit: ExitStack | None = None
        self._state = "not entered"

    @property
    def supports_graphs(self) -> bool:
        """Whether `capture` works: with cuda-python alone."""
        return self._graphs is not None

    @property
    def driver_version(self) -> str:
        """The driver's version, such as "580.65.06 (CUDA 13.0)"."""
        major, minor = self.driver.cuda_version
        return f"{self.driver.version or 'unknown'} (CUDA {major}.{minor})"

    def __enter__(self) -> Device:
        """Takes the device's primary context and makes a stream.

        Raises:
            DmcpError: CUDA refuses, mostly for want of memory.
        """
        assert self._state == "not entered", f"the device is {self._state}"
        with ExitStack() as undo:
            self._binding.open(self.ordinal)
            undo.callback(self._binding.close)
            self._stream, release = self._binding.make_stream()
            undo.callback(release)
            self._exit = undo.pop_all()
        self._state = "open"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Waits for the stream and frees everything.

        Raises:
            DmcpError: Work on the stream or freeing failed, and nothing else did before.
        """
        self._check_open()
        try:
            self._release_all()
        except CudaError:
            # The error that ended the block says more than one of freeing after it.
            if err is None:
                raise

    @property
    def stream(self) -> Stream:
        """The queue that copies, events and graphs of this device go to."""
        self._check_open()
        return Stream(self._binding.stream_handle(self._stream))

    def alloc(self, size_bytes: int) -> DeviceBuffer:
        """Returns memory on the device, with whatever it holds.

        Raises:
            DmcpError: There is no room.
        """
        self._check_open()
        assert size_bytes > 0, size_bytes
        try:
            address, release = self._binding.alloc(size_bytes)
        except CudaError as err:
            if err.out_of_memory:
                raise self._no_room(size_bytes) from err
            raise
        buffer = DeviceBuffer(address, size_bytes)
        self._releases[buffer] = release
        return buffer

    def free(self, buffer: DeviceBuffer) -> None:
        """Frees memory before the device is left, after all work that is enqueued on it."""
        self._check_buffer(buffer)
        self._releases.pop(buffer)()

    def pinned(
        self, shape: int | tuple[int, ...], dtype: npt.DTypeLike = np.float32
    ) -> npt.NDArray[Any]:
        """Returns an array in page-locked memory, with whatever it holds.

        Copies from and to it run beside the program. It must not be touched once the device is
        left: copy what has to live longer.

        Raises:
            DmcpError: There is no room.
        """
        self._check_open()
        kind = np.dtype(dtype)
        sizes = (shape,) if isinstance(shape, int) else shape
        size_bytes = math.prod(sizes) * kind.itemsize
        assert size_bytes > 0, shape
        memory, release = self._binding.pinned(size_bytes)
        self._releases[object()] = release
        return memory.view(kind).reshape(sizes)

    def copy_in(self, buffer: DeviceBuffer, array: npt.NDArray[Any]) -> None:
        """Enqueues a copy of an array to the start of a buffer.

        A pinned array must stay as it is until the stream has done the copy.

        Raises:
            DmcpError: CUDA refuses.
        """
        self._check_copy(buffer, array)
        self._binding.copy_in(buffer.address, array, self._stream)

    def copy_out(self, array: npt.NDArray[Any], buffer: DeviceBuffer) -> None:
        """Enqueues a copy of the start of a buffer to an array, complete after `synchronize`.

        Raises:
            DmcpError: CUDA refuses.
        """
        self._check_copy(buffer, array)
        assert array.flags.writeable, "the array is read-only"
        self._binding.copy_out(array, buffer.address, self._stream)

    def event(self) -> Event:
        """Returns an event, to be recorded as often as one likes."""
        self._check_open()
        handle, release = self._binding.make_event()
        event = Event(handle)
        self._releases[event] = release
        return event

    def record(self, event: Event) -> None:
        """Enqueues the event: it happens when all work enqueued before is done."""
        self._check_open()
        self._binding.record(event._handle, self._stream)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Returns the milliseconds between two recorded events; waits for the second.

        Raises:
            DmcpError: Work on the stream failed.
        """
        self._check_open()
        return self._binding.elapsed_ms(start._handle, end._handle)

    def synchronize(self) -> None:
        """Waits until all work on the stream is done.

        Raises:
            DmcpError: Some of it failed.
        """
        self._check_open()
        self._binding.synchronize(self._stream)

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """Returns the work that a call enqueues on the stream, as a graph; none of it is done.

        Args:
            enqueue: Enqueues on this device's stream, and neither waits nor takes memory. Its
                buffers and pinned arrays must live as long as the graph is launched.

        Raises:
            DmcpError: The binding has no graphs, or CUDA cannot record the work.
        """
        self._check_open()
        if self._graphs is None:
            raise DmcpError(
                f"{self.binding} has no CUDA graphs: pip install cuda-python, and choose it."
            )
        handle, release = self._graphs.capture(enqueue, self._stream)
        graph = Graph(partial(self._launch, self._graphs, handle))
        self._releases[graph] = release
        return graph

    def _launch(self, graphs: GraphCalls, handle: Any) -> None:
        self._check_open()
        graphs.launch(handle, self._stream)

    def _release_all(self) -> None:
        """Frees the newest first, whatever fails on the way."""
        assert self._exit is not None
        releases, self._releases, self._state = self._releases, {}, "closed"
        with self._exit as stack:
            for release in releases.values():
                stack.callback(release)
            # Memory must outlive the copies that are under way.
            stack.callback(self._binding.synchronize, self._stream)

    def _no_room(self, size_bytes: int) -> DmcpError:
        free_bytes, total_bytes = self._binding.memory()
        return DmcpError(
            f"The GPU has no room for {format_bytes(size_bytes)}: {format_bytes(free_bytes)} of its"
            f" {format_bytes(total_bytes)} are free; end other programs that use it, or take"
            " smaller batches."
        )

    def _check_open(self) -> None:
        assert self._state == "open", f"the device is {self._state}"

    def _check_buffer(self, buffer: DeviceBuffer) -> None:
        self._check_open()
        assert buffer in self._releases, "the buffer is freed, or another device's"

    def _check_copy(self, buffer: DeviceBuffer, array: npt.NDArray[Any]) -> None:
        self._check_buffer(buffer)
        assert array.flags.c_contiguous, "the array is not contiguous"
        assert array.nbytes <= buffer.size_bytes, f"{array.nbytes} over {buffer.size_bytes} bytes"
