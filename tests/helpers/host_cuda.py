"""A CUDA driver that works on host memory, and processes that find it where they look for NVIDIA's.

The loader reads LD_LIBRARY_PATH once, when a process starts: whatever is to see the driver runs in
a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from kept import kept
from needs import need

import dmcp_deploy

TESTS = Path(__file__).parent
PACKAGES = Path(dmcp_deploy.__file__).parent.parent
SOURCES = TESTS / "cuda_host_driver"

KINDS = ("allocations", "pinned", "streams", "events", "graphs", "executables", "contexts")


def build_driver(*flags: str) -> Path:
    """Returns the folder of libcuda.so.1 and libcuda.so, compiled if its sources have changed.

    Args:
        flags: For gcc: -DOLDER leaves out what came with CUDA 13.
    """
    need("gcc")
    sources = sorted(SOURCES.glob("*.[ch]"))
    content = b"".join(path.read_bytes() for path in sources) + " ".join(flags).encode()
    return kept("cuda-driver", content, partial(_compile_driver, flags))


def _compile_driver(flags: tuple[str, ...], folder: Path) -> None:
    library = folder / "libcuda.so.1"
    options = ("-shared", "-fPIC", "-O1", "-Wall", "-Werror", f"-Wl,-soname,{library.name}")
    command = ["gcc", *options, *flags, "-o", library, SOURCES / "driver.c", "-ldl"]
    subprocess.run(command, check=True)
    (folder / "libcuda.so").symlink_to(library.name)


def broken_driver(folder: Path) -> Path:
    """Returns a folder whose libcuda.so.1 cannot be loaded, whatever the machine has elsewhere."""
    (folder / "libcuda.so.1").write_bytes(b"")
    return folder


def run_python(
    code: str, driver: Path, *, path: Collection[Path] = (), refuse: Collection[str] = ()
) -> str:
    """Returns what Python prints in a process that finds its CUDA driver in a folder.

    Args:
        code: What it runs.
        driver: Folder of libcuda.so.1.
        path: Folders that lead its module search path.
        refuse: Modules that cannot be imported.
    """
    guard = GUARD.format(names=set(refuse)) if refuse else ""
    done = subprocess.run(
        [sys.executable, "-c", f"{guard}\n{code}"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": ":".join(map(str, [*path, PACKAGES, TESTS])),
            "LD_LIBRARY_PATH": str(driver),
            "OMP_NUM_THREADS": "1",
        },
        cwd=TESTS,  # Python puts it before PYTHONPATH
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


GUARD = """
import sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name in {names!r}:
            raise ModuleNotFoundError(f"refused: {{name}}", name=name)

sys.meta_path.insert(0, Guard())
"""


# ---- inside such a process ----


@contextlib.contextmanager
def setting(**variables: str) -> Iterator[None]:
    """Sets what the driver reads from the environment, for a block."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def live(what: str) -> int:
    """Returns how many allocations, streams and so on the driver holds: see driver.c."""
    count = ctypes.CDLL("libcuda.so.1").dmcp_live
    count.restype = ctypes.c_long
    number = int(count(what.encode()))
    assert number >= 0, what
    return number


def left_behind() -> dict[str, int]:
    """Returns what is alive, this thread's contexts included, without what counts zero."""
    counts = {what: live(what) for what in (*KINDS, "current")}
    return {what: count for what, count in counts.items() if count}


class HostFunctions:
    """Enqueues Python functions on streams, as kernels would be; keeps them alive."""

    def __init__(self) -> None:
        self._kept: list[object] = []

    def enqueue(self, stream_handle: int, function: Callable[[], None]) -> None:
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: function())
        self._kept.append(call)
        library = ctypes.CDLL("libcuda.so.1")
        assert library.cuLaunchHostFunc(ctypes.c_void_p(stream_handle), call, None) == 0


def device_floats(address: int, count: int) -> ctypes.Array[ctypes.c_float]:
    """Returns device memory as a kernel sees it."""
    return (ctypes.c_float * count).from_address(address)
