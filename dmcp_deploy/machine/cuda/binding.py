"""The Python libraries that call CUDA: what is asked of them, which is there, why one is not."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol, cast

from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.extras import is_installed as is_library_installed
from dmcp_deploy.machine.cuda.driver import DriverInfo
from dmcp_deploy.registry import choose

if TYPE_CHECKING:
    import numpy.typing as npt  # doctor reads this module where not even numpy is

#: Frees what it came with; called once.
Release = Callable[[], None]


class GraphCalls(Protocol):
    """CUDA graphs, of a library that has them."""

    def capture(self, enqueue: Callable[[], None], stream: Any) -> tuple[Any, Release]:
        """Returns what a call enqueues, as a graph ready to be launched."""

    def launch(self, graph: Any, stream: Any) -> None:
        """Enqueues a graph."""


class Binding(Protocol):
    """CUDA as the device layer sees it: calls in the context of one thread.

    Whatever CUDA refuses is raised as CudaError. Streams, events and graphs are of the library's
    own types.

    Attributes:
        name: As in BINDINGS.
        cuda_version: The CUDA it was built for, as (13, 0).
        graphs: CUDA graphs; None where the library, or its release, has none.
    """

    name: str
    cuda_version: tuple[int, int]
    graphs: GraphCalls | None

    def open(self, ordinal: int) -> None:
        """Retains a device's primary context and makes it current; all or nothing."""

    def close(self) -> None:
        """Leaves the thread with the context it had, and lets go of the device's."""

    def memory(self) -> tuple[int, int]:
        """Returns the bytes that are free, and all."""

    def alloc(self, size_bytes: int) -> tuple[int, Release]:
        """Returns the address of device memory."""

    def pinned(self, size_bytes: int) -> tuple[npt.NDArray[Any], Release]:
        """Returns page-locked memory, as bytes."""

    def make_stream(self) -> tuple[Any, Release]:
        """Returns a stream."""

    def stream_handle(self, stream: Any) -> int:
        """Returns the CUstream."""

    def synchronize(self, stream: Any) -> None:
        """Waits for a stream."""

    def copy_in(self, address: int, array: npt.NDArray[Any], stream: Any) -> None:
        """Enqueues a copy to the device."""

    def copy_out(self, array: npt.NDArray[Any], address: int, stream: Any) -> None:
        """Enqueues a copy from the device."""

    def make_event(self) -> tuple[Any, Release]:
        """Returns an event that takes the time."""

    def record(self, event: Any, stream: Any) -> None:
        """Enqueues an event."""

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Waits for the second event and returns the time between both."""


@dataclass(frozen=True)
class _Library:
    """A binding: modules of which one must be there, distributions, and what calls them here."""

    modules: tuple[str, ...]
    distributions: tuple[str, ...]
    caller: str


#: In the order in which "auto" takes them.
BINDINGS = {
    "cuda-python": _Library(
        ("cuda.bindings.driver", "cuda.cuda"),
        ("cuda-bindings", "cuda-python"),
        "dmcp_deploy.machine.cuda.binding_cuda_python",
    ),
    "pycuda": _Library(("pycuda",), ("pycuda",), "dmcp_deploy.machine.cuda.binding_pycuda"),
}


def pick_binding(name: str) -> str:
    """Returns the binding to use; "auto" is the first that is installed.

    Raises:
        DmcpError: The name is unknown, or the library is not installed.
    """
    wanted = choose("CUDA binding", name, ["auto", *BINDINGS])
    candidates = list(BINDINGS) if wanted == "auto" else [wanted]
    for candidate in candidates:
        if is_installed(candidate):
            return candidate
    raise not_installed(candidates)


def load_binding(name: str, driver: DriverInfo) -> Binding:
    """Returns a binding that is installed, imported.

    Raises:
        DmcpError: It does not import, or it needs a newer driver.
    """
    try:
        binding = cast("Binding", importlib.import_module(BINDINGS[name].caller).make_binding())
    except ImportError as err:
        raise _not_importable(name, driver, err) from err
    if binding.cuda_version[0] > driver.cuda_version[0]:
        major, minor = binding.cuda_version
        made_for = f"{name} {version_of(name) or ''}".strip()
        raise _too_old(name, driver, f"{made_for} is made for CUDA {major}.{minor}")
    return binding


def is_installed(name: str) -> bool:
    """Returns whether a binding is there; it is not imported."""
    return any(map(is_library_installed, BINDINGS[name].modules))


def version_of(name: str) -> str | None:
    """Returns the release of a binding that is installed; None where no package says it."""
    for distribution in BINDINGS[name].distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def not_installed(names: Sequence[str]) -> DmcpError:
    """Returns what to tell a user who has none of these bindings."""
    which = " nor ".join(names)
    return DmcpError(
        f"Neither {which} is installed, and one is needed to run on a GPU: pip install"
        f" {' or pip install '.join(names)}."
        if len(names) > 1
        else f"{which} is not installed: pip install {which}."
    )


def _not_importable(name: str, driver: DriverInfo, err: ImportError) -> DmcpError:
    reason = reason_of(err)
    if "undefined symbol: cu" in str(err):
        return _too_old(name, driver, f"{name} was built against a newer CUDA ({reason})")
    return DmcpError(
        f"{name} is installed and cannot be imported ({reason}): pip install --force-reinstall"
        f" --no-cache-dir {name}."
    )


def _too_old(name: str, driver: DriverInfo, made_for: str) -> DmcpError:
    major, minor = driver.cuda_version
    other = {
        "cuda-python": f"pip install 'cuda-python=={major}.*'",
        "pycuda": f"build pycuda anew with the CUDA {major} toolkit (pip install --force-reinstall"
        " --no-cache-dir pycuda)",
    }
    return DmcpError(
        f"The NVIDIA driver is too old: {made_for}, and the driver supports CUDA {major}.{minor}:"
        f" update the driver, or {other[name]}."
    )
