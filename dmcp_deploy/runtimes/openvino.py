"""An ONNX file in OpenVINO on the CPU."""

from __future__ import annotations

import functools
import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.machine.affinity import CallerCores
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
from dmcp_deploy.runtimes.profile_names import Kernel

#: What this package calls a precision -> what OpenVINO calls it.
PRECISIONS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}

_NAMES = {**{theirs: ours for ours, theirs in PRECISIONS.items()}, "i8": "int8", "u8": "int8"}

#: Kinds of layer that multiply; the others only move data or are fused.
_MULTIPLYING = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}

#: OpenVINO's profile holds means over all runs of a loaded network, in whole microseconds. The mean
#: of the last runs follows from two of them, and the more runs came before, the less exactly: with
#: 3 before and 5 counted, to half a microsecond.
WARM_UPS = 3
RUNS_PER_LOAD = 5

_HALF_US = 0.5


def open_session(path: Path, threads: int) -> OpenVinoSession:
    """Returns an ONNX file loaded for running (see `session.Runtime`)."""
    return OpenVinoSession(path, threads)


def profile(path: Path, images: npt.NDArray[np.float32], threads: int, runs: int) -> list[Kernel]:
    """Returns the kernels of an ONNX file, each with its mean of `RUNS_PER_LOAD` runs a load.

    Raises:
        DmcpError: The file is absent or does not fit, or the library is missing.
    """
    loads = [_load_means(path, images, threads) for _ in range(math.ceil(runs / RUNS_PER_LOAD))]
    kernels = []
    # Kernels without a name of their own are named anew in each load; their order is the same.
    for means in zip(*loads, strict=True):
        first = means[0][1]
        if any(mean.mean_us for pair in means for mean in pair):
            samples = tuple(mean_after(early.mean_us, late.mean_us) for early, late in means)
            kernels.append(Kernel(first.name, first.kind, first.parts, samples))
    return kernels


def mean_after(early_us: float, late_us: float) -> float:
    """Returns the mean in milliseconds of the runs between two means over all runs.

    Args:
        early_us: Mean after the warm-up, in microseconds, rounded down.
        late_us: Mean after all runs, likewise.
    """
    early = (early_us + _HALF_US) * WARM_UPS
    late = (late_us + _HALF_US) * (WARM_UPS + RUNS_PER_LOAD)
    # Of a short kernel the means, rounded down, may leave nothing or less.
    return max((late - early) / RUNS_PER_LOAD, _HALF_US) / 1e3


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

    def __exit__(self, *error: Any) -> None:
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
        name = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return _NAMES.get(name, str(name))

    @property
    def layer_precisions(self) -> dict[str, int]:
        """Precision -> how many of the convolution and linear layers are computed in it."""
        assert self._compiled is not None, "the session is closed"
        layers = (layer.get_rt_info() for layer in self._compiled.get_runtime_model().get_ops())
        names = (
            info["runtimePrecision"].astype(str)
            for info in layers
            if info["layerType"].astype(str) in _MULTIPLYING
        )
        return dict(Counter(_NAMES.get(name, name) for name in names))

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


def _load_means(
    path: Path, images: npt.NDArray[np.float32], threads: int
) -> list[tuple[KernelMean, KernelMean]]:
    """Returns the kernels of one load, with their means after the warm-up and after all runs."""
    with OpenVinoSession(path, threads, profile=True) as session:
        for _ in range(WARM_UPS):
            session.run(images)
        before = session.kernel_means()
        for _ in range(RUNS_PER_LOAD):
            session.run(images)
        return list(zip(before, session.kernel_means(), strict=True))


def _library() -> Any:
    try:
        import openvino
        import openvino.frontend
    except (ImportError, OSError) as err:
        raise DmcpError(
            f"OpenVINO cannot be loaded ({reason_of(err)}): pip install dmcp-deploy[openvino]."
        ) from err
    return openvino


def _read(ov: Any, path: Path) -> Any:
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


def _read_errors(ov: Any) -> tuple[type[Exception], ...]:
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
        # Without it, some processors would compute in BF16 or FP16.
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
    library = _library()
    # It holds back the kernels alone: OpenVINO would go on to choose BF16 ones, and crash in them.
    if limit := os.environ.get("ONEDNN_MAX_CPU_ISA"):
        os.environ.setdefault("OV_CPU_MAX_ISA", limit.upper())
    return library.Core()


#: Places in OpenVINO's own sources, and what announces the next line.
_NOISE = re.compile(r".*:$|Loading input model$|Model wasn't fully converted")
