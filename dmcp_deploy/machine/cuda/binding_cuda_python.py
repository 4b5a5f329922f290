"""CUDA through NVIDIA's own cuda-python, 12 and 13; the one that has CUDA graphs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.cuda.binding import GraphCalls, Release
from dmcp_deploy.machine.cuda.driver import CudaError


def make_binding() -> CudaPythonBinding:
    """Returns the binding.

    Raises:
        ImportError: The library is not there, or broken.
    """
    return CudaPythonBinding()


class CudaPythonBinding:
    """See `binding.Binding`."""

    name = "cuda-python"

    def __init__(self) -> None:
        """Imports the library.

        Raises:
            ImportError: It is not there, or broken.
        """
        self._cuda: Any = _library()
        version: int = self._cuda.CUDA_VERSION
        self.cuda_version = (version // 1000, version % 1000 // 10)
        # Before 12, cuGraphInstantiate took other arguments.
        self.graphs: GraphCalls | None = self if version >= 12000 else None
        self._device: Any = None

    def open(self, ordinal: int) -> None:
        """Retains a device's primary context and makes it current."""
        self._call("cuInit", 0)
        device = self._call("cuDeviceGet", ordinal)
        context = self._call("cuDevicePrimaryCtxRetain", device)
        try:
            self._call("cuCtxPushCurrent", context)
        except CudaError:
            self._call("cuDevicePrimaryCtxRelease", device)
            raise
        self._device = device

    def close(self) -> None:
        """Takes the context off the thread and lets go of it."""
        try:
            self._call("cuCtxPopCurrent")
        finally:
            self._call("cuDevicePrimaryCtxRelease", self._device)

    def memory(self) -> tuple[int, int]:
        """Returns the bytes that are free, and all."""
        free_bytes, total_bytes = self._call("cuMemGetInfo")
        return int(free_bytes), int(total_bytes)

    def alloc(self, size_bytes: int) -> tuple[int, Release]:
        """Returns the address of device memory."""
        pointer = self._call("cuMemAlloc", size_bytes)
        return int(pointer), partial(self._call, "cuMemFree", pointer)

    def pinned(self, size_bytes: int) -> tuple[npt.NDArray[Any], Release]:
        """Returns page-locked memory, as bytes."""
        pointer = self._call("cuMemHostAlloc", size_bytes, 0)
        memory = (ctypes.c_uint8 * size_bytes).from_address(int(pointer))
        return np.ctypeslib.as_array(memory), partial(self._call, "cuMemFreeHost", pointer)

    def make_stream(self) -> tuple[Any, Release]:
        """Returns a stream."""
        stream = self._call("cuStreamCreate", 0)
        return stream, partial(self._call, "cuStreamDestroy", stream)

    def stream_handle(self, stream: Any) -> int:
        """Returns the CUstream."""
        return int(stream)

    def synchronize(self, stream: Any) -> None:
        """Waits for a stream."""
        self._call("cuStreamSynchronize", stream)

    def copy_in(self, address: int, array: npt.NDArray[Any], stream: Any) -> None:
        """Enqueues a copy to the device."""
        self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, stream)

    def copy_out(self, array: npt.NDArray[Any], address: int, stream: Any) -> None:
        """Enqueues a copy from the device."""
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, stream)

    def make_event(self) -> tuple[Any, Release]:
        """Returns an event that takes the time."""
        event = self._call("cuEventCreate", 0)
        return event, partial(self._call, "cuEventDestroy", event)

    def record(self, event: Any, stream: Any) -> None:
        """Enqueues an event."""
        self._call("cuEventRecord", event, stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Waits for the second event and returns the time between both."""
        self._call("cuEventSynchronize", end)
        return float(self._call("cuEventElapsedTime", start, end))

    def capture(self, enqueue: Callable[[], None], stream: Any) -> tuple[Any, Release]:
        """Returns what a call enqueues, as a graph ready to be launched."""
        graph = self._recorded(enqueue, stream)
        try:
            executable = self._call("cuGraphInstantiate", graph, 0)
        except CudaError as err:
            raise _not_a_graph(err) from err
        finally:
            self._call("cuGraphDestroy", graph)
        return executable, partial(self._call, "cuGraphExecDestroy", executable)

    def launch(self, graph: Any, stream: Any) -> None:
        """Enqueues a graph."""
        self._call("cuGraphLaunch", graph, stream)

    def _recorded(self, enqueue: Callable[[], None], stream: Any) -> Any:
        # Other threads, such as one that reads the clocks, may go on calling CUDA meanwhile.
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)
        try:
            enqueue()
        except BaseException:
            # The stream must leave the capture, valid or not, before it can be used again.
            status, graph = self._cuda.cuStreamEndCapture(stream)
            if status == self._cuda.CUresult.CUDA_SUCCESS:
                self._call("cuGraphDestroy", graph)
            raise
        try:
            return self._call("cuStreamEndCapture", stream)
        except CudaError as err:
            raise _not_a_graph(err) from err

    def _call(self, name: str, *arguments: Any) -> Any:
        """Returns what a CUDA call returns beside its status: nothing, one value or a tuple."""
        status, *values = getattr(self._cuda, name)(*arguments)
        results = self._cuda.CUresult
        if status != results.CUDA_SUCCESS:
            lacks_memory = status == results.CUDA_ERROR_OUT_OF_MEMORY
            raise CudaError(name, self._reason(status), out_of_memory=lacks_memory)
        return values[0] if len(values) == 1 else tuple(values) or None

    def _reason(self, status: Any) -> str:
        _, text = self._cuda.cuGetErrorString(status)
        name = getattr(status, "name", "error")
        return f"{name} ({int(status)}, {text.decode() if text else 'unknown'})"


def _library() -> Any:
    try:
        from cuda.bindings import driver
    except ModuleNotFoundError:
        # Releases before 12.6.1, JetPack 6's among them.
        from cuda import cuda as driver
    return driver


def _not_a_graph(err: CudaError) -> DmcpError:
    return DmcpError(
        f"The work cannot be recorded as a CUDA graph ({str(err).partition(':')[0]}): run it"
        " without one."
    )
