"""Any artifact that can be run, opened in the runtime it is meant for."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from dmcp_deploy.registry import ONNX_RUNTIMES, choose
from dmcp_deploy.runtimes.interface import ImageShape

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ENGINE_SUFFIX = ".engine"


class Session(Protocol):
    """A network loaded for running; a context manager that owns what it loaded."""

    path: Path

    def __enter__(self) -> Session:
        """Returns the session."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Frees the network."""

    @property
    def input_shape(self) -> ImageShape:
        """(N, C, H, W) of the input; None where the file leaves the axis open."""

    @property
    def runtime(self) -> str:
        """What runs the network, with the precision where the runtime chooses it."""

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the logits [N, classes] of images [N, C, H, W], both float32."""


def is_engine(path: Path) -> bool:
    """Returns whether a file is a TensorRT engine, by its name."""
    return path.suffix == ENGINE_SUFFIX


def open_session(path: Path, runtime: str = "onnxruntime", threads: int = 0) -> Session:
    """Returns an artifact loaded for running.

    Args:
        path: An ONNX file, or an engine with its sidecar.
        runtime: One of `registry.ONNX_RUNTIMES`, for an ONNX file.
        threads: Threads on a CPU; 0 leaves the number to the runtime.

    Raises:
        DmcpError: The artifact or the runtime is not there, or they do not fit.
    """
    if is_engine(path):
        from dmcp_deploy.runtimes.tensorrt import EngineSession

        return EngineSession(path)
    if choose("--runtime", runtime, ONNX_RUNTIMES) == "openvino":
        from dmcp_deploy.runtimes.openvino import OpenVinoSession

        return OpenVinoSession(path, threads)
    from dmcp_deploy.runtimes.onnxruntime import OnnxSession

    return OnnxSession(path, threads)
