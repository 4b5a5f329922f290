"""A TensorRT or TensorRT-RTX engine on the GPU at hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.cuda.device import Device, DeviceBuffer, open_device
from dmcp_deploy.machine.cuda.driver import CudaError
from dmcp_deploy.runtimes.engine_checks import check_gpu, check_onnx_unchanged, check_version
from dmcp_deploy.runtimes.engine_record import EngineRecord
from dmcp_deploy.runtimes.profile_names import Kernel
from dmcp_deploy.runtimes.sampler import (
    EVENTS_GRAPH,
    WALL_TRANSFERS,
    Clock,
    Sampler,
    by_events,
    by_wall,
)
from dmcp_deploy.runtimes.trt_api import ICudaEngine, IExecutionContext, IProfiler, TensorRT
from dmcp_deploy.runtimes.trt_flavours import Loaded, Message, load_flavour, reasons
from dmcp_deploy.units import format_bytes

_Result = TypeVar("_Result")

#: In a profile: the first runs load kernels, and clocks rise.
WARM_UPS = 10

#: What joins the names of the operators that a layer is fused of.
_JOINT = re.compile(r" \+ | \|\| ")


def open_session(path: Path, threads: int = 0) -> EngineSession:
    """Returns an engine loaded for running (see `session.Runtime`); threads are for CPUs alone."""
    return EngineSession(path)


def profile(path: Path, images: npt.NDArray[np.float32], threads: int, runs: int) -> list[Kernel]:
    """Returns the kernels of an engine, each with one sample a run.

    Raises:
        DmcpError: The engine does not run here, or not on these images.
    """
    samples: dict[str, list[float]] = {}
    with EngineSession(path) as session:
        kinds = {layer["name"]: layer["kind"] for layer in session.record.layers}
        run_ms: dict[str, float] = {}
        session.profile_with(_profiler(load_flavour(session.record.runtime).trt, run_ms))
        for run in range(WARM_UPS + runs):
            run_ms.clear()
            session.run(images)
            for name, time_ms in run_ms.items() if run >= WARM_UPS else ():
                samples.setdefault(name, []).append(time_ms)
    return [
        Kernel(name, kinds.get(name, ""), tuple(_JOINT.split(name)), tuple(kernel_ms))
        for name, kernel_ms in samples.items()
    ]


class EngineSession:
    """An engine loaded for running; a context manager that owns its device memory.

    Attributes:
        path: The engine's file.
        record: Its sidecar.
    """

    def __init__(self, path: Path, *, binding: str = "auto", ordinal: int = 0) -> None:
        """Loads an engine onto a GPU.

        Args:
            path: The engine; its sidecar lies beside it.
            binding: "pycuda", "cuda-python", or "auto" for the one that is installed.
            ordinal: Which GPU.

        Raises:
            DmcpError: The engine is missing or damaged, was built for another GPU, version or
                ONNX file, or there is no GPU, driver, TensorRT or memory for it.
        """
        self.path, self.record = Path(path), EngineRecord.load(Path(path))
        check_onnx_unchanged(self.path, self.record)
        self._loaded = load_flavour(self.record.runtime)
        check_version(self.path, self.record, self._loaded.version)
        self._loaded.log.take_latest()
        self._buffers: dict[int, _Buffers] = {}
        with ExitStack() as stack:
            self._device: Device = stack.enter_context(open_device(binding, ordinal))
            stack.callback(self._drop)
            check_gpu(self.path, self.record, self._device)
            self._engine = load_engine(self._loaded, self.path.read_bytes(), str(self.path))
            context = self._engine.create_execution_context()
            self._context = self._checked(context, "make a context")
            self._input, self._output = _tensor_names(self._loaded, self._engine, self.path)
            self._stack = stack.pop_all()

    def __enter__(self) -> EngineSession:
        """Returns the session."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Frees the engine, then all device memory."""
        self._stack.__exit__(*error)

    def _drop(self) -> None:
        """Lets go of what TensorRT holds, which must go before the CUDA context does."""
        # A context must outlive its work. What failed in that work is raised on leaving the device.
        with suppress(CudaError):
            self._device.synchronize()
        self._buffers.clear()
        self.__dict__.pop("_context", None)
        self.__dict__.pop("_engine", None)

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None, int | None]:
        """(N, C, H, W) of the input; N is None where the engine takes several batch sizes."""
        smallest, _, largest = self.record.batches
        return (smallest if smallest == largest else None, *self.record.input_shape)

    @property
    def runtime(self) -> str:
        """What runs the network, its version and the engine's precision."""
        record = self.record
        return f"{record.runtime} {record.runtime_version} {record.precision}"

    @property
    def device(self) -> Device:
        """The GPU the engine is loaded on."""
        return self._device

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the logits [N, classes] of images [N, C, H, W], both float32.

        Raises:
            DmcpError: The engine does not take the shape, or fails.
        """
        buffers = self._prepared(images.shape)
        buffers.images[...] = images
        self._device.copy_in(buffers.input, buffers.images)
        self.enqueue()
        self._device.copy_out(buffers.logits, buffers.output)
        self._device.synchronize()
        return buffers.logits.copy()

    def prepare(
        self, batch: int, images: npt.NDArray[np.float32] | None = None
    ) -> Callable[[], None]:
        """Returns a call that enqueues one run on a batch that is on the device already.

        The call neither copies nor waits: it is what a latency without transfers is taken of, and
        what `Device.capture` records as a graph. It holds until the next `run` or `prepare`.

        Args:
            batch: Images of the run, if none are given.
            images: The images [N, C, H, W]; zeros if None, on which a GPU draws less power.
        """
        shape = (batch, *self.record.input_shape) if images is None else images.shape
        buffers = self._prepared(shape)
        buffers.images[...] = 0 if images is None else images
        self._device.copy_in(buffers.input, buffers.images)
        self.enqueue()  # the first run allocates, which a graph could not record
        self._device.synchronize()
        return self.enqueue

    def sampler(self, images: npt.NDArray[np.float32], clock: Clock) -> Sampler:
        """Returns how runs on images [N, C, H, W] are timed; it holds until the next run.

        Without transfers it is the time between two CUDA events, of a CUDA graph where the
        binding has graphs; with them it is the whole of `run`.

        Raises:
            DmcpError: The engine does not take the shape, it fails, or the binding has no graphs.
        """
        if clock.transfers:
            self.run(images)
            return by_wall(partial(self.run, images), WALL_TRANSFERS)
        enqueue = self.prepare(len(images), images)
        if clock.graph or (clock.graph is None and self._device.supports_graphs):
            graph = self._device.capture(enqueue)
            return by_events(self._device, graph.launch, EVENTS_GRAPH)
        return by_events(self._device, enqueue)

    def enqueue(self) -> None:
        """Enqueues one run on the buffers set last."""
        if not self._context.execute_async_v3(self._device.stream.handle):
            raise self._failed("run")

    def profile_with(self, profiler: IProfiler) -> None:
        """Makes every later run report its layers' times, for which it waits."""
        self._context.profiler = profiler

    def _prepared(self, shape: tuple[int, ...]) -> _Buffers:
        """Returns the buffers of a batch size, with the context set to them."""
        batch, smallest, largest = shape[0], self.record.batches[0], self.record.batches[2]
        if tuple(shape[1:]) != self.record.input_shape or not smallest <= batch <= largest:
            raise DmcpError(
                f"{self.path} takes {smallest} to {largest} images of"
                f" {list(self.record.input_shape)}, and was given {list(shape)}."
            )
        if not self._context.set_input_shape(self._input, shape):
            raise self._failed(f"take the input shape {list(shape)}")
        if batch not in self._buffers:
            logits = tuple(self._context.get_tensor_shape(self._output))
            self._buffers[batch] = _Buffers(self._device, shape, logits)
        buffers = self._buffers[batch]
        addresses = {
            self._input: buffers.input.address,
            self._output: buffers.output.address,
        }
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._failed(f"take a buffer for {name}")
        return buffers

    def _checked(self, result: _Result | None, what: str) -> _Result:
        if result is None:
            raise self._failed(what)
        return result

    def _failed(self, what: str) -> DmcpError:
        told = reasons(self._loaded.log.take_latest())
        return DmcpError(
            f"{self.path} cannot {what} on {self._device.name} ({told}): it may lack memory"
            f" ({format_bytes(self._device.memory_bytes)} in all), or the engine is damaged."
        )


class _Buffers:
    """Device and page-locked memory for one batch size; the device session frees it."""

    def __init__(self, device: Device, images: tuple[int, ...], logits: tuple[int, ...]) -> None:
        self.images = device.pinned(images)
        self.logits = device.pinned(logits)
        self.input: DeviceBuffer = device.alloc(self.images.nbytes)
        self.output: DeviceBuffer = device.alloc(self.logits.nbytes)


def load_engine(loaded: Loaded, engine: bytes, name: str) -> ICudaEngine:
    """Returns an engine on the current GPU.

    Raises:
        DmcpError: TensorRT cannot load it here.
    """
    with loaded.log.collecting() as messages:
        runtime = loaded.trt.Runtime(loaded.log.logger)
        loaded_engine = None if runtime is None else runtime.deserialize_cuda_engine(engine)
        if loaded_engine is None:
            raise DmcpError(_not_loaded(loaded, name, messages))
    return loaded_engine


def inspect_engine(loaded: Loaded, engine: bytes, messages: Sequence[Message]) -> str:
    """Returns the layer information of an engine as JSON, from the GPU it was built on.

    Raises:
        DmcpError: The engine does not load.
    """
    on_gpu = load_engine(loaded, engine, "the engine just built")
    inspector, context = on_gpu.create_engine_inspector(), on_gpu.create_execution_context()
    if inspector is None or context is None:
        raise DmcpError(f"{loaded.flavour.name} cannot inspect its engine: {reasons(messages)}.")
    _set_best_shapes(loaded, on_gpu, context)
    inspector.execution_context = context  # else layers of open shapes show no types
    return inspector.get_engine_information(loaded.trt.LayerInformationFormat.JSON)


def _profiler(trt: TensorRT, run_ms: dict[str, float]) -> IProfiler:
    """Returns a profiler that adds each layer's milliseconds to what its name has already."""

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]  # it carries no types
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            run_ms[layer_name] = run_ms.get(layer_name, 0.0) + ms

    return cast("IProfiler", Profiler())


def _tensor_names(loaded: Loaded, engine: ICudaEngine, path: Path) -> tuple[str, str]:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    mode = loaded.trt.TensorIOMode
    inputs = [name for name in names if engine.get_tensor_mode(name) == mode.INPUT]
    outputs = [name for name in names if engine.get_tensor_mode(name) == mode.OUTPUT]
    if len(inputs) != 1 or len(outputs) != 1:
        raise DmcpError(
            f"{path} has {len(inputs)} inputs and {len(outputs)} outputs, where one of each is"
            " needed."
        )
    return inputs[0], outputs[0]


def _set_best_shapes(loaded: Loaded, engine: ICudaEngine, context: IExecutionContext) -> None:
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.get_tensor_mode(name) == loaded.trt.TensorIOMode.INPUT:
            best = engine.get_tensor_profile_shape(name, 0)[1]
            context.set_input_shape(name, tuple(best))


def _not_loaded(loaded: Loaded, name: str, messages: list[Message]) -> str:
    told = reasons(messages)
    if "cudaError 35" in told or "driver" in told.lower():
        return (
            f"{name} cannot be loaded, for this machine has no usable NVIDIA driver ({told}):"
            " dmcp-deploy doctor shows what it has."
        )
    return f"{loaded.flavour.name} {loaded.version} cannot load {name}: {told}."
