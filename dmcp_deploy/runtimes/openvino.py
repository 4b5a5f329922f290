"""An ONNX file in OpenVINO on the CPU."""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.machine.caller_cores import CallerCores
from dmcp_deploy.registry import choose
from dmcp_deploy.runtimes.interface import (
    ImageShape,
    check_onnx_file,
    check_threads,
    image_shape,
    misfit,
    other_interface,
    unloadable,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: What this package calls a precision -> what OpenVINO calls it.
PRECISIONS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}

_NAMES = {**{theirs: ours for ours, theirs in PRECISIONS.items()}, "i8": "int8", "u8": "int8"}

#: Kinds of layer that multiply; the others only move data or are fused.
_MULTIPLYING = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}


@dataclass(frozen=True)
class KernelMean:
    """What OpenVINO's profiler tells of one kernel.

    Attributes:
        name: OpenVINO's name for it.
        kind: Its type.
        parts: Names of the operators that it is fused of.
        mean_us: Mean time in microseconds over all runs since loading, rounded down; 0 also where
            it is not executed, being fused with another.
    """

    name: str
    kind: str
    parts: tuple[str, ...]
    mean_us: float


_CORES = CallerCores()


class OpenVinoSession:
    """An ONNX file compiled for the CPU; a context manager that owns the compiled network.

    Attributes:
        path: The file.
        threads: Threads of one inference; 0 leaves the number to the library.
        precision: The precision that was asked for: "fp32", "fp16" or "bf16".
    """

    def __init__(
        self, path: Path, threads: int = 0, precision: str = "fp32", profile: bool = False
    ) -> None:
        """Loads and compiles the file.

        Args:
            path: The ONNX file: one float32 input [N, C, H, W], one output [N, classes].
            threads: Threads of one inference; 0 leaves the number to the library.
            precision: The precision to compute in, "fp32", "fp16" or "bf16". It is a hint: a
                processor that lacks it computes in another (see `executed_precision`). Q/DQ
                layers run in INT8 whatever it says.
            profile: Whether to time every kernel (see `kernel_means`).

        Raises:
            DmcpError: The library is missing, the precision unknown, the file is absent, no ONNX
                graph, or of another interface.
        """
        self.path = Path(path)
        self.threads = threads
        self.precision = precision
        choose("--precision", precision, PRECISIONS)
        check_threads(threads)
        ov = _library()
        model = _read(ov, self.path)
        self._shape = _sizes(model, self.path)
        self._compiled: Any = _compile(model, self, profile)
        self._request: Any = self._compiled.create_infer_request()
        self._give_back_cores = _CORES.take()

    def __enter__(self) -> OpenVinoSession:
        """Returns the session."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Frees the network."""
        self._request = self._compiled = None
        self._give_back_cores()

    @property
    def input_shape(self) -> ImageShape:
        """(N, C, H, W) of the input; None where the file leaves the axis open."""
        return image_shape(self._shape)

    @property
    def runtime(self) -> str:
        """What runs the network, with the precision that it really has."""
        return f"openvino {self.executed_precision}"

    @property
    def executed_precision(self) -> str:
        """The precision that the compiled network computes in, Q/DQ layers apart."""
        assert self._compiled is not None, "the session is closed"
        found = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return _NAMES.get(found, str(found))

    @property
    def layer_precisions(self) -> dict[str, int]:
        """Precision -> how many of the convolution and linear layers are computed in it."""
        assert self._compiled is not None, "the session is closed"
        layers = (layer.get_rt_info() for layer in self._compiled.get_runtime_model().get_ops())
        found = (
            info["runtimePrecision"].astype(str)
            for info in layers
            if info["layerType"].astype(str) in _MULTIPLYING
        )
        return dict(Counter(_NAMES.get(name, name) for name in found))

    def kernel_means(self) -> list[KernelMean]:
        """Returns all kernels, in order of execution; the session was opened to profile."""
        assert self._request is not None, "the session is closed"
        parts = {
            layer.get_friendly_name(): layer.get_rt_info()["originalLayersNames"].astype(str)
            for layer in self._compiled.get_runtime_model().get_ops()
        }
        return [
            KernelMean(
                name=item.node_name,
                kind=item.node_type,
                parts=tuple(part for part in parts.get(item.node_name, "").split(",") if part),
                mean_us=item.real_time.total_seconds() * 1e6,
            )
            for item in self._request.profiling_info
        ]

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the logits [N, classes] of images [N, C, H, W], both float32.

        Raises:
            DmcpError: The images do not fit the file's input, or the network fails on them.
        """
        assert self._request is not None, "the session is closed"
        if images.dtype != "float32":
            raise misfit(self.path, images, self._shape, "float32 is needed")
        try:
            # Images are read where they lie; without this every run would copy them first.
            outputs = self._request.infer([images], share_inputs=True)
        except RuntimeError as err:
            raise misfit(self.path, images, self._shape, reason_of(err, _NOISE)) from err
        logits: npt.NDArray[np.float32] = next(iter(outputs.values()))
        return logits


def _library() -> ModuleType:
    try:
        import openvino
        import openvino.frontend
    except (ImportError, OSError) as err:
        raise DmcpError(
            f"OpenVINO cannot be loaded ({reason_of(err)}): pip install dmcp-deploy[openvino]."
        ) from err
    library: ModuleType = openvino
    return library


def _read(ov: ModuleType, path: Path) -> Any:
    """Returns the network as OpenVINO reads it.

    The ONNX front end is asked for by name: `read_model` would try every format on a file that is
    not ONNX, print what each thinks of it, and lose the reason; `convert_model` sends telemetry.
    """
    check_onnx_file(path)
    try:
        front_end = ov.frontend.FrontEndManager().load_by_framework("onnx")
        model = front_end.convert(front_end.load(str(path)))
    except _read_errors(ov) as err:
        raise unloadable(path, reason_of(err, _NOISE)) from err
    if not model.inputs and not model.outputs:
        raise unloadable(path, "it holds no network")
    return model


def _read_errors(ov: ModuleType) -> tuple[type[Exception], ...]:
    """Returns what reading a file raises: the front ends' exceptions have no base of their own."""
    return (
        RuntimeError,
        ov.frontend.GeneralFailure,
        ov.frontend.InitializationFailure,
        ov.frontend.NotImplementedFailure,
        ov.frontend.OpConversionFailure,
        ov.frontend.OpValidationFailure,
        UnicodeDecodeError,
    )


def _sizes(model: Any, path: Path) -> list[int | str]:
    """Returns the sizes of the one image input, "?" where the file leaves one open."""
    shapes = [item.partial_shape for item in model.inputs]
    types = [item.element_type.get_type_name() for item in model.inputs]
    fits = types == ["f32"] and shapes[0].rank.is_static and len(shapes[0]) == 4
    if fits and model.outputs:
        return [size.get_length() if size.is_static else "?" for size in shapes[0]]
    names = [item.any_name for item in model.inputs]
    raise other_interface(path, list(map("{} {} {}".format, names, types, shapes)))


def _compile(model: Any, session: OpenVinoSession, profile: bool) -> Any:
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "PERF_COUNT": profile,
        # Left out, some processors compute in BF16 or FP16 without a word.
        "INFERENCE_PRECISION_HINT": PRECISIONS[session.precision],
    }
    if session.threads:
        options["INFERENCE_NUM_THREADS"] = session.threads
    try:
        return _core().compile_model(model, "CPU", options)
    except RuntimeError as err:
        raise DmcpError(
            f"OpenVINO cannot compile {session.path} for the CPU: {reason_of(err, _NOISE)}."
        ) from err


@functools.cache
def _core() -> Any:
    """Returns OpenVINO's entry, one for the life of the process.

    Its plugin gives the thread another stack for signal handlers, and takes it back when it goes.
    Of two that do not go in the reverse order of their coming, the thread is left with a stack
    that is freed: the next signal then kills the process.
    """
    return _library().Core()


#: Places in OpenVINO's own sources, and what announces the next line.
_NOISE = re.compile(r".*:$|Loading input model$|Model wasn't fully converted")
