"""An ONNX file in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from dmcp_deploy.errors import DmcpError, reason_of
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

CPU = "CPUExecutionProvider"


class OnnxSession:
    """An ONNX file loaded for running; a context manager that owns the loaded network.

    Attributes:
        path: The file.
        threads: Threads of one operator; 0 leaves the number to the library.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 0,
        providers: Sequence[str] = (CPU,),
        profile: Path | None = None,
    ) -> None:
        """Loads the file.

        Args:
            path: The ONNX file: one float32 input [N, C, H, W], one output [N, classes].
            threads: Threads of one operator; 0 leaves the number to the library.
            providers: ONNX Runtime's execution providers, the preferred first.
            profile: Where to write what each operator takes (see `end_profiling`), but for what
                the library adds to the name; None times nothing.

        Raises:
            DmcpError: The library or a provider is missing, the file is absent, no ONNX graph, or
                of another interface.
        """
        self.path = Path(path)
        self.threads = threads
        self._session: Any = _open(self.path, providers, _options(threads, profile))
        self._input, self._output = _interface(self._session, self.path)
        self._errors = _runtime_errors()

    def __enter__(self) -> OnnxSession:
        """Returns the session."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Frees the network."""
        self._session = None

    @property
    def input_shape(self) -> ImageShape:
        """(N, C, H, W) of the input; None where the file leaves the axis open."""
        return image_shape(self._input.shape)

    @property
    def runtime(self) -> str:
        """What runs the network."""
        return "onnxruntime"

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers in use, the preferred first."""
        return tuple(self._session.get_providers())

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the logits [N, classes] of images [N, C, H, W], both float32.

        Raises:
            DmcpError: The images do not fit the file's input, or the network fails on them.
        """
        assert self._session is not None, "the session is closed"
        try:
            outputs = self._session.run([self._output], {self._input.name: images})
        except self._errors as err:
            raise misfit(self.path, images, self._input.shape, reason_of(err)) from err
        logits: npt.NDArray[np.float32] = outputs[0]
        return logits

    def end_profiling(self) -> Path:
        """Ends the profile that the session was opened with; returns its file, in JSON."""
        assert self._session is not None, "the session is closed"
        return Path(self._session.end_profiling())


def _open(path: Path, providers: Sequence[str], options: Any) -> Any:
    ort = _library()
    missing = [name for name in providers if name not in ort.get_available_providers()]
    if missing:
        raise DmcpError(
            f"ONNX Runtime has no {missing[0]} here; it has"
            f" {', '.join(ort.get_available_providers())}."
        )
    check_onnx_file(path)
    try:
        # Its fallback would print, try again, and take other providers than those asked for.
        return ort.InferenceSession(
            str(path), options, providers=list(providers), enable_fallback=False
        )
    except _runtime_errors() as err:
        raise unloadable(path, reason_of(err)) from err


def _library() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as err:
        raise DmcpError(
            f"ONNX Runtime cannot be loaded ({reason_of(err)}): pip install dmcp-deploy[export], or"
            " dmcp-deploy[device] where there is no torch."
        ) from err
    library: ModuleType = onnxruntime
    return library


def _options(threads: int, profile: Path | None) -> Any:
    options = _library().SessionOptions()
    check_threads(threads)
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Idle threads spin on after a run and would slow the session that is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return options


def _interface(session: Any, path: Path) -> tuple[_Input, str]:
    """Returns the one image input, and the name of the first output."""
    try:
        inputs = [_Input(item.name, item.type, item.shape) for item in session.get_inputs()]
        outputs = [item.name for item in session.get_outputs()]
    except UnicodeDecodeError as err:
        raise unloadable(path, f"a name in it is no text ({reason_of(err)})") from err
    fits = len(inputs) == 1 and len(outputs) >= 1
    if fits and inputs[0].type == "tensor(float)" and len(inputs[0].shape) == 4:
        return inputs[0], outputs[0]
    raise other_interface(path, [f"{item.name} {item.type} {item.shape}" for item in inputs])


class _Input(NamedTuple):
    name: str
    type: str
    shape: list[int | str | None]


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Returns ONNX Runtime's exceptions, which have no base, and what stands in for them."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoModel,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
        UnicodeDecodeError,
    )
