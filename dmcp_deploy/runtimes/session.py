"""Any artifact that can be run, opened in the runtime it is meant for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from dmcp_deploy.registry import ENGINE_MODULE, ONNX_RUNTIMES, choose
from dmcp_deploy.runtimes.interface import ImageShape
from dmcp_deploy.runtimes.profile_names import Kernel

ENGINE_SUFFIX = ".engine"


class Session(Protocol):
    """A network loaded for running; a context manager that owns what it loaded."""

    path: Path

    def __enter__(self) -> Session:
        """Returns the session."""

    def __exit__(self, *error: Any) -> None:
        """Frees the network."""

    @property
    def input_shape(self) -> ImageShape:
        """(N, C, H, W) of the input; None where the file leaves the axis open."""

    @property
    def runtime(self) -> str:
        """What runs the network, with the precision where the runtime chooses it."""

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the logits [N, classes] of images [N, C, H, W], both float32."""


class Runtime(Protocol):
    """What a module that the registry names for a runtime offers.

    `profile` may be missing: the runtime then measures whole networks, and no single layers.
    """

    def open_session(self, path: Path, threads: int) -> Session:
        """Returns a file loaded for running.

        Args:
            path: The file.
            threads: Threads on a CPU; 0 leaves the number to the runtime.

        Raises:
            DmcpError: The file or the runtime is not there, or they do not fit.
        """

    def profile(
        self, path: Path, images: npt.NDArray[np.float32], threads: int, runs: int
    ) -> list[Kernel]:
        """Returns the kernels of a file with their samples, in order of execution.

        Args:
            path: The file.
            images: [N, C, H, W].
            threads: Threads on a CPU; 0 leaves the number to the runtime.
            runs: Runs that are counted; a few before them are dropped.

        Raises:
            DmcpError: The file or the runtime is not there, or they do not fit.
        """


def is_engine(path: Path) -> bool:
    """Returns whether a file is a TensorRT engine, by its name."""
    return path.suffix == ENGINE_SUFFIX


def runtime_of(path: Path, runtime: str) -> Runtime:
    """Returns the module that runs a file.

    Args:
        path: An ONNX file, or an engine, which tells its own runtime.
        runtime: One of `registry.ONNX_RUNTIMES`, for an ONNX file.

    Raises:
        DmcpError: The runtime is unknown.
    """
    if is_engine(path):
        module = ENGINE_MODULE
    else:
        module = ONNX_RUNTIMES[choose("--runtime", runtime, ONNX_RUNTIMES)]
    return cast("Runtime", importlib.import_module(module))


def open_session(path: Path, runtime: str = "onnxruntime", threads: int = 0) -> Session:
    """Returns an artifact loaded for running.

    Args:
        path: An ONNX file, or an engine with its sidecar.
        runtime: One of `registry.ONNX_RUNTIMES`, for an ONNX file.
        threads: Threads on a CPU; 0 leaves the number to the runtime.

    Raises:
        DmcpError: The artifact or the runtime is not there, or they do not fit.
    """
    return runtime_of(path, runtime).open_session(path, threads)
