"""What a runtime's own profiler says its kernels took, and which layer each computes."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.load import load_onnx
from dmcp_deploy.registry import ENGINE_MODULE, NETWORK_RUNTIMES, ONNX_RUNTIMES
from dmcp_deploy.runtimes.engine_checks import source_onnx
from dmcp_deploy.runtimes.profile_names import layers_of_kernels
from dmcp_deploy.runtimes.session import is_engine, runtime_of


@dataclass(frozen=True)
class KernelTime:
    """One kernel that a runtime executes, fused of one or more operators.

    Attributes:
        name: The runtime's name for it.
        kind: The runtime's type of it.
        layer: The layer that it computes (see `onnxgraph.names.layer_nodes`), what is fused with
            it included; None for what is no convolution or linear layer: reorders, pools,
            additions.
        samples_ms: Its time in every run. OpenVINO tells only means over all runs, so there each
            is the mean of `openvino.RUNS_PER_LOAD` runs of a load of its own.
    """

    name: str
    kind: str
    layer: str | None
    samples_ms: tuple[float, ...]


def profile_layers(
    path: Path,
    images: npt.NDArray[np.float32],
    *,
    runtime: str = "onnxruntime",
    threads: int = 0,
    runs: int = 20,
) -> tuple[KernelTime, ...]:
    """Returns the kernels of an artifact with their times, in order of execution.

    A profiled run is slower as a whole than one that is not, by a microsecond or so a kernel.

    Args:
        path: An ONNX file, or an engine with its sidecar and the ONNX file that it was built from.
        images: [N, C, H, W], float32.
        runtime: One of `registry.ONNX_RUNTIMES`, for an ONNX file.
        threads: Threads on a CPU; 0 leaves the number to the runtime.
        runs: Runs that are counted; a few before them are dropped.

    Raises:
        DmcpError: The artifact or the runtime is not there, they do not fit, the runtime has no
            profiler, or the number of runs is below 1.
    """
    path = Path(path)
    if runs < 1:
        raise DmcpError(f"The number of profiled runs is {runs} and must be 1 or more.")
    module, source = runtime_of(path, runtime), layers_file(path)
    if not hasattr(module, "profile"):
        raise _no_profiler(runtime)
    kernels = module.profile(path, images, threads, runs)
    layers = layers_of_kernels(kernels, load_onnx(source).graph)
    return tuple(
        KernelTime(kernel.name, kernel.kind, layer, kernel.samples_ms)
        for kernel, layer in zip(kernels, layers, strict=True)
    )


def check_profiler(runtime: str) -> None:
    """Checks that a runtime, one of `registry.BENCH_RUNTIMES`, tells what its kernels take.

    Raises:
        DmcpError: It does not.
    """
    module = ONNX_RUNTIMES.get(runtime, ENGINE_MODULE)
    if runtime in NETWORK_RUNTIMES or not hasattr(importlib.import_module(module), "profile"):
        raise _no_profiler(runtime)


def layers_file(path: Path) -> Path:
    """Returns the ONNX file that tells an artifact's layers.

    Raises:
        DmcpError: It is that of an engine, and not there.
    """
    return source_onnx(path) if is_engine(path) else path


def _no_profiler(runtime: str) -> DmcpError:
    return DmcpError(
        f"--layers reads a runtime's own profiler, which {runtime} has none of here: choose another"
        " --runtime."
    )
