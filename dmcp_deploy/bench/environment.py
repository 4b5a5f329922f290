"""The machine and the libraries a measurement was taken with."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from dmcp_deploy import __version__

_LIBRARIES = (
    *("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "torch"),
    *("tensorrt", "tensorrt-rtx-cu13", "pycuda", "cuda-bindings"),
)


def read_environment() -> dict[str, Any]:
    """Returns what can be read of the machine, as JSON values; what cannot is None.

    `cores` are those that this process may use, `load_average` is over 1, 5 and 15 minutes, and
    `libraries` holds the versions of those installed, without importing them.
    """
    return {
        "taken_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "tool_version": __version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cores": _cores(),
        "governor": _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "load_average": _load_average(),
        "libraries": _library_versions(),
    }


def _cpu_model() -> str | None:
    """Returns the processor's name, or the board's where the kernel names no processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() == "model name" and value.strip():
            return value.strip()
    board = _first_line(Path("/proc/device-tree/model"))
    return board or platform.processor() or None


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _load_average() -> list[float] | None:
    try:
        return [round(load, 2) for load in os.getloadavg()]
    except (OSError, AttributeError):
        return None


def _library_versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _first_line(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The device tree ends its strings with a zero byte.
    return text.split("\n")[0].strip("\0 ") or None
