"""The machine and the libraries a measurement was taken with."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from dmcp_deploy import __version__
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.board import Board, read_board, read_power_mode
from dmcp_deploy.machine.cuda.driver import read_driver
from dmcp_deploy.machine.quota import read_quota
from dmcp_deploy.machine.state import allowed_cores, read_governor, read_load_average
from dmcp_deploy.machine.sysfs import read_text

_LIBRARIES = (
    *("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "torch"),
    *("tensorrt", "tensorrt-rtx-cu13", "pycuda", "cuda-bindings"),
)


def read_environment(devices: bool = False) -> dict[str, Any]:
    """Returns what can be read of the machine, as JSON values; what cannot is None.

    `cores` are those that this process may use, `cpu_quota` the time of how many of them, where its
    container or job is limited so; `load_average` is over 1, 5 and 15 minutes, and
    `libraries` holds the versions of those installed, without importing them.

    Args:
        devices: Whether also `gpus` (name, compute capability, bytes of memory; the one that is
            measured first), their `gpu_driver`, the newest `cuda` that it supports, and of a
            Jetson the `board` and its `power_mode`. NVIDIA's driver is started for that.
    """
    return {**_machine(), **(_devices() if devices else {})}


def first_gpu(environment: Mapping[str, Any]) -> str | None:
    """Returns the name of the GPU that CUDA takes first, of an environment that was recorded.

    It is None where that does not tell of one.
    """
    gpus = environment.get("gpus")
    first = gpus[0] if isinstance(gpus, list) and gpus else None
    return str(first.get("name")) if isinstance(first, Mapping) else None


def _machine() -> dict[str, Any]:
    return {
        "taken_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "tool_version": __version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cores": len(allowed_cores()),
        "cpu_quota": read_quota(),
        "governor": read_governor(),
        "load_average": read_load_average(),
        "libraries": _library_versions(),
    }


def _cpu_model() -> str | None:
    """Returns the processor's name, or the board's where the kernel names no processor."""
    for line in read_text(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() == "model name" and value.strip():
            return value.strip()
    board = read_text(Path("/proc/device-tree/model"))
    return board or platform.processor() or None


def _devices() -> dict[str, Any]:
    board = read_board()
    return {
        **_gpus(),
        "board": None if board is None else _board(board),
        "power_mode": read_power_mode(),
    }


def _gpus() -> dict[str, Any]:
    try:
        driver = read_driver()
    except DmcpError:  # a machine without a GPU is none to tell of
        return {"gpus": [], "gpu_driver": None, "cuda": None}
    gpus = [
        {
            "name": device.name,
            "compute_capability": _dotted(device.compute_capability),
            "memory_bytes": device.memory_bytes,
        }
        for device in driver.devices
    ]
    return {"gpus": gpus, "gpu_driver": driver.version, "cuda": _dotted(driver.cuda_version)}


def _board(board: Board) -> dict[str, Any]:
    pack = board.jetpack
    return {"model": board.model, "l4t": board.l4t, "jetpack": None if pack is None else pack.name}


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _library_versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
