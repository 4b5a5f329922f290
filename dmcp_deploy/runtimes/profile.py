"""What a runtime's own profiler says its kernels took, and which layer each computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.load import load_onnx
from dmcp_deploy.registry import ONNX_RUNTIMES, choose
from dmcp_deploy.runtimes.profile_names import Kernel, layers_of_kernels
from dmcp_deploy.runtimes.session import is_engine

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class KernelTime:
    """One kernel that a runtime executes, fused of one or more operators.

    Attributes:
        name: The runtime's name for it.
        kind: The runtime's type of it.
        layer: The layer that it computes (see `onnx_names.layer_nodes`), what is fused with it
            included; None for what is no convolution or linear layer: reorders, pools, additions.
        samples_ms: Its time in every run. OpenVINO tells only means over all runs, so there each
            is the mean of `profile_openvino.RUNS_PER_LOAD` runs of a load of its own.
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
        runtime: What runs an ONNX file: "onnxruntime" or "openvino".
        threads: Threads on a CPU; 0 leaves the number to the runtime.
        runs: Runs that are counted; a few before them are dropped.

    Raises:
        DmcpError: The artifact or the runtime is not there, they do not fit, or the number of
            runs is below 1.
    """
    path = Path(path)
    if runs < 1:
        raise DmcpError(f"The number of profiled runs is {runs} and must be 1 or more.")
    found, source = _profile(path, images, runtime, threads, runs)
    layers = layers_of_kernels([kernel for kernel, _ in found], load_onnx(source).graph)
    return tuple(
        KernelTime(kernel.name, kernel.kind, layer, samples)
        for (kernel, samples), layer in zip(found, layers, strict=True)
    )


def _profile(
    path: Path, images: npt.NDArray[np.float32], runtime: str, threads: int, runs: int
) -> tuple[list[tuple[Kernel, tuple[float, ...]]], Path]:
    """Returns the kernels with their samples, and the ONNX file that they are of."""
    if is_engine(path):
        from dmcp_deploy.runtimes.profile_tensorrt import profile_engine, source_onnx

        source = source_onnx(path)
        return profile_engine(path, images, runs), source
    if choose("--runtime", runtime, ONNX_RUNTIMES) == "openvino":
        from dmcp_deploy.runtimes.profile_openvino import profile_openvino

        return profile_openvino(path, images, threads, runs), path
    from dmcp_deploy.runtimes.profile_onnxruntime import profile_onnxruntime

    return profile_onnxruntime(path, images, threads, runs), path
