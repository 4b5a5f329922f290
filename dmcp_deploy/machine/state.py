"""The state a machine is in before and after a measurement: load, clocks, temperature."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dmcp_deploy.machine.board import read_power_mode
from dmcp_deploy.machine.gpu_state import read_gpu_state
from dmcp_deploy.machine.quota import read_quota, read_throttled
from dmcp_deploy.machine.sysfs import read_number, read_text

#: Thermal zones that tell the processor's temperature.
_CPU_ZONES = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal")


def read_state(
    cores: Sequence[int], *, with_gpu: bool = False, root: Path = Path("/")
) -> dict[str, Any]:
    """Returns the machine's state as JSON values; what is not told is left out.

    It is load_average (over 1, 5 and 15 minutes), governor, cpu_mhz (the mean over the cores),
    cpu_temperature_c, cpu_slowdowns (times that heat has slowed the cores down since the start),
    power_mode (of a Jetson), gpu (see `read_gpu_state`), and where a container or job has one:
    cpu_quota (the time of how many cores it may take), cpu_periods (in which it was counted, since
    the group's start) and cpu_throttled (in how many of them it was used up).

    Args:
        cores: The cores that are measured on.
        with_gpu: Whether a GPU is measured.
        root: The folder in which sys/ lies.
    """
    state = {**dict(_cpu(cores, root)), "power_mode": read_power_mode()}
    if with_gpu:
        state["gpu"] = read_gpu_state(root)
    return {name: value for name, value in state.items() if value is not None}


def read_governor(core: int = 0, root: Path = Path("/")) -> str | None:
    """Returns how Linux sets a core's clock, such as "performance"; None where it does not tell."""
    return read_text(root / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor") or None


def read_load_average() -> list[float] | None:
    """Returns the load over 1, 5 and 15 minutes; None where the platform has none."""
    try:
        return [round(load, 2) for load in os.getloadavg()]
    except (OSError, AttributeError):
        return None


def allowed_cores() -> tuple[int, ...]:
    """Returns the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def usable_cores(root: Path = Path("/")) -> int:
    """Returns how many threads this process can keep busy: its cores, or its quota if less."""
    quota = read_quota(root)
    cores = len(allowed_cores())
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _cpu(cores: Sequence[int], root: Path) -> Iterator[tuple[str, Any]]:
    folders = [root / f"sys/devices/system/cpu/cpu{core}" for core in cores]
    yield "load_average", read_load_average()
    yield "governor", read_governor(cores[0] if cores else 0, root)
    khz = _numbers(folder / "cpufreq/scaling_cur_freq" for folder in folders)
    yield "cpu_mhz", round(statistics.fmean(khz) / 1e3) if khz else None
    zones = (root / "sys/class/thermal").glob("thermal_zone*")
    hot = _numbers(zone / "temp" for zone in zones if read_text(zone / "type") in _CPU_ZONES)
    yield "cpu_temperature_c", max(hot) / 1e3 if hot else None
    slowed = _numbers(folder / "thermal_throttle/core_throttle_count" for folder in folders)
    yield "cpu_slowdowns", sum(slowed) if slowed else None
    yield "cpu_quota", read_quota(root)
    yield from zip(("cpu_periods", "cpu_throttled"), read_throttled(root) or (), strict=False)


def _numbers(paths: Iterator[Path]) -> list[int]:
    return [number for path in paths if (number := read_number(path)) is not None]
