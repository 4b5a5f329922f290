"""CUDA through pycuda: what JetPack's users mostly have; it has no CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from dmcp_deploy.machine.cuda.binding import GraphCalls, Release
from dmcp_deploy.machine.cuda.driver import CudaError, current_context, pop_context, push_context


def make_binding() -> PycudaBinding:
    """Returns the binding.

    Raises:
        ImportError: The library is not there, or broken.
    """
    return PycudaBinding()


class PycudaBinding:
    """See `binding.Binding`."""

    name = "pycuda"
    graphs: GraphCalls | None = None

    def __init__(self) -> None:
        """Imports the library, without `pycuda.autoinit`: that makes a context of its own.

        Raises:
            ImportError: It is not there, broken, or needs a newer driver.
        """
        self._cuda: Any = _library()
        major, minor, *_ = self._cuda.get_version()
        self.cuda_version = (int(major), int(minor))
        self._context: Any = None
        self._before = 0

    def open(self, ordinal: int) -> None:
        """Retains a device's primary context and makes it current."""
        with self._errors():
            self._cuda.init()
            self._before = current_context()
            self._context = self._cuda.Device(ordinal).retain_primary_context()
            try:
                self._context.push()
            except self._cuda.Error:
                self._let_go()
                raise

    def close(self) -> None:
        """Takes the context off the thread and lets go of it."""
        with self._errors():
            try:
                self._context.pop()
            finally:
                self._let_go()

    def memory(self) -> tuple[int, int]:
        """Returns the bytes that are free, and all."""
        with self._errors():
            free_bytes, total_bytes = self._cuda.mem_get_info()
        return int(free_bytes), int(total_bytes)

    def alloc(self, size_bytes: int) -> tuple[int, Release]:
        """Returns the address of device memory."""
        with self._errors():
            memory = self._cuda.mem_alloc(size_bytes)
        return int(memory), memory.free

    def pinned(self, size_bytes: int) -> tuple[npt.NDArray[Any], Release]:
        """Returns page-locked memory, as bytes."""
        with self._errors():
            memory: npt.NDArray[Any] = self._cuda.pagelocked_empty(size_bytes, np.uint8)
        return memory, memory.base.free  # type: ignore[union-attr]

    def make_stream(self) -> tuple[Any, Release]:
        """Returns a stream."""
        with self._errors():
            return _held(self._cuda.Stream())

    def stream_handle(self, stream: Any) -> int:
        """Returns the CUstream."""
        return int(stream[0].handle)

    def synchronize(self, stream: Any) -> None:
        """Waits for a stream."""
        with self._errors():
            stream[0].synchronize()

    def copy_in(self, address: int, array: npt.NDArray[Any], stream: Any) -> None:
        """Enqueues a copy to the device."""
        with self._errors():
            self._cuda.memcpy_htod_async(address, array, stream[0])

    def copy_out(self, array: npt.NDArray[Any], address: int, stream: Any) -> None:
        """Enqueues a copy from the device."""
        with self._errors():
            self._cuda.memcpy_dtoh_async(array, address, stream[0])

    def make_event(self) -> tuple[Any, Release]:
        """Returns an event that takes the time."""
        with self._errors():
            return _held(self._cuda.Event())

    def record(self, event: Any, stream: Any) -> None:
        """Enqueues an event."""
        with self._errors():
            event[0].record(stream[0])

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Waits for the second event and returns the time between both."""
        with self._errors():
            end[0].synchronize()
            return float(start[0].time_till(end[0]))

    def _let_go(self) -> None:
        context, handle = self._context, int(self._context.handle)
        self._context = None
        context.detach()
        # To let go of a context pycuda makes it current, and it leaves the primary one current.
        if current_context() == handle:
            pop_context()
            if current_context() != self._before:
                push_context(handle)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns pycuda's errors, such as "cuMemAlloc failed: out of memory", into ours."""
        try:
            yield
        except self._cuda.Error as err:
            call, _, reason = str(err).partition(" failed: ")
            lacks_memory = isinstance(err, self._cuda.MemoryError)
            raise CudaError(call, reason or "error", out_of_memory=lacks_memory) from err


def _library() -> Any:
    with warnings.catch_warnings():
        # It blames the toolkit's headers for whatever keeps the driver from loading.
        warnings.filterwarnings("ignore", "Failed to import the CUDA driver interface")
        import pycuda.driver
    return pycuda.driver


def _held(item: Any) -> tuple[list[Any], Release]:
    """Returns an object in a list: pycuda destroys what nothing refers to any more."""
    holder = [item]
    return holder, holder.clear
