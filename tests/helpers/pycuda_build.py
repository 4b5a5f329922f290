"""The real pycuda, compiled from PyPI's sources against the host-memory CUDA driver.

It takes a core a minute, once: the result is kept in a cache folder, outside of the environment
that runs the tests.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import partial
from pathlib import Path

import pytest
from host_cuda import build_driver
from kept import kept
from needs import need

RELEASE = "2026.1"

#: cudaProfiler.h is in no wheel that torch brings.
PROFILER = "nvidia-cuda-profiler-api"

#: What pip says when it is the network, and not the build, that fails.
OFFLINE = ("No matching distribution found", "NewConnectionError", "ConnectTimeout", "ReadTimeout")


def build_pycuda() -> Path:
    """Returns a folder to lead the module search path, in which pycuda lies."""
    for name in ("gcc", "g++", "Python.h"):
        need(name)
    headers = toolkit_headers()
    content = f"{RELEASE} {sys.version} {(headers / 'cuda.h').read_text(encoding='utf-8')}"
    return kept("pycuda", content, partial(_build, headers))


def _build(headers: Path, site: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pycuda-") as name:
        folder = Path(name)
        sources = _sources(folder / "sources")
        profiler = _profiler_headers(folder / "profiler")
        (sources / "siteconf.py").write_text(_configuration([headers, profiler]))
        pip("wheel", "--no-deps", "--wheel-dir", folder, sources)
        (wheel,) = folder.glob("pycuda-*.whl")
        pip("install", "--no-deps", "--upgrade", "--target", site, wheel)


def toolkit_headers() -> Path:
    """Returns the folder of cuda.h that the wheels of a CUDA build of torch bring."""
    for package in ("nvidia.cu13", "nvidia.cuda_runtime"):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for place in (spec.submodule_search_locations if spec else None) or ():
            if (Path(place) / "include" / "cuda.h").is_file():
                return Path(place) / "include"
    pytest.skip("no package brings cuda.h: pip install nvidia-cuda-runtime")


def _sources(folder: Path) -> Path:
    _download(folder, "--no-binary", "pycuda", "--no-build-isolation", f"pycuda=={RELEASE}")
    with tarfile.open(folder / f"pycuda-{RELEASE}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / f"pycuda-{RELEASE}"


def _profiler_headers(folder: Path) -> Path:
    _download(folder, PROFILER)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    (header,) = folder.rglob("cudaProfiler.h")
    return header.parent


def _configuration(headers: list[Path]) -> str:
    return (
        "CUDA_ENABLE_CURAND = False\n"
        f"CUDA_ROOT = {str(headers[0].parent)!r}\n"
        f"CUDA_INC_DIR = {[str(path) for path in headers]!r}\n"
        f"CUDADRV_LIB_DIR = [{str(build_driver())!r}]\n"
    )


def _download(folder: Path, *what: str) -> None:
    pip("download", "--no-deps", "--dest", folder, *what)


def pip(*arguments: object) -> None:
    """Runs pip; skips the test where PyPI cannot be reached, and fails it where pip does."""
    command = ["nice", sys.executable, "-m", "pip", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if any(words in done.stderr for words in OFFLINE):
        pytest.skip(f"PyPI cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    pytest.fail(f"pip {arguments[0]} failed:\n{done.stderr[-3000:]}")
