"""An ONNX file in ONNX Runtime."""

from __future__ import annotations

import json
import tempfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

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
from dmcp_deploy.runtimes.profile_names import Kernel

CPU = "CPUExecutionProvider"

#: In a profile: the first runs allocate memory and fill caches.
WARM_UPS = 3

_KERNEL_SUFFIX = "_kernel_time"
#: Kernels that run other kernels, which the profile tells as well.
_AROUND_OTHERS = {"If", "Loop", "Scan"}
#: The profile tells whole microseconds, rounded down.
_HALF_US = 0.5


def open_session(path: Path, threads: int) -> OnnxSession:
    """Returns an ONNX file loaded for running (see `session.Runtime`)."""
    return OnnxSession(path, threads)


def profile(path: Path, images: npt.NDArray[np.float32], threads: int, runs: int) -> list[Kernel]:
    """Returns the kernels of an ONNX file, each with one sample a run.

    Raises:
        DmcpError: The file is absent or does not fit, or the library is missing.
    """
    with (
        tempfile.TemporaryDirectory(prefix="dmcp-deploy.") as folder,
        OnnxSession(path, threads, profile=Path(folder) / "profile") as session,
    ):
        for _ in range(WARM_UPS + runs):
            session.run(images)
        # The names of a damaged file's operators may be no text.
        text = session.end_profiling().read_text(encoding="utf-8", errors="replace")
        events = json.loads(text)
    return kernels_of_events(events, runs)


def kernels_of_events(events: Sequence[Mapping[str, Any]], runs: int) -> list[Kernel]:
    """Returns the kernels in a profile, with their samples of the last runs."""
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")[-runs:]
    samples_ms: dict[tuple[str, str, str], list[float]] = {}
    for event in events:
        run = bisect_right(starts, event["ts"]) - 1
        name, kind = event["name"], str(event["args"].get("op_name", ""))
        if run < 0 or not name.endswith(_KERNEL_SUFFIX) or kind in _AROUND_OTHERS:
            continue
        key = (name.removesuffix(_KERNEL_SUFFIX), kind, str(event["args"].get("node_index")))
        kernel_ms = samples_ms.setdefault(key, [0.0] * len(starts))
        kernel_ms[run] += (event["dur"] + _HALF_US) / 1e3
    return [Kernel(name, kind, (name,), tuple(ms)) for (name, kind, _), ms in samples_ms.items()]


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
        exact: bool = False,
    ) -> None:
        """Loads the file.

        Args:
            path: The ONNX file: one float32 input [N, C, H, W], one output [N, classes].
            threads: Threads of one operator; 0 leaves the number to the library.
            providers: ONNX Runtime's execution providers, the preferred first.
            profile: Where to write what each operator takes (see `end_profiling`), but for what
                the library adds to the name; None times nothing.
            exact: Whether INT8 is added up without loss on every processor: to judge a network.
                To time one leave it, since it is not how the library runs a network by itself.

        Raises:
            DmcpError: The library or a provider is missing, the file is absent, no ONNX graph, or
                of another interface.
        """
        self.path = Path(path)
        self.threads = threads
        self._session: Any = _open(self.path, providers, _options(threads, profile, exact))
        self._input, self._output = _interface(self._session, self.path)
        self._errors = _runtime_errors()

    def __enter__(self) -> OnnxSession:
        """Returns the session."""
        return self

    def __exit__(self, *error: Any) -> None:
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


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as err:
        raise DmcpError(
            f"ONNX Runtime cannot be loaded ({reason_of(err)}): pip install dmcp-deploy[export], or"
            " dmcp-deploy[device] where there is no torch."
        ) from err
    return onnxruntime


def _options(threads: int, profile: Path | None, exact: bool) -> Any:
    options = _library().SessionOptions()
    check_threads(threads)
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Idle threads spin on after a run and would slow the session that is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if exact:
        # Else x86 without VNNI cuts sums of two products of INT8 off at 16 bits.
        options.add_session_config_entry("session.x64quantprecision", "1")
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
