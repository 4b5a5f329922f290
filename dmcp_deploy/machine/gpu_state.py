"""How an NVIDIA GPU is at this moment: clocks, temperature, power, and what slows it down."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmcp_deploy.machine.child import run_bounded
from dmcp_deploy.machine.sysfs import read_number, read_text

#: What `nvidia-smi` calls a figure -> what it is called here.
_FIGURES = {
    "clocks.sm": "sm_mhz",
    "clocks.mem": "memory_mhz",
    "temperature.gpu": "temperature_c",
    "power.draw": "power_w",
    "power.limit": "power_limit_w",
}
#: The mask of reasons; older drivers know it by its second name alone.
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")

#: Bits of that mask (nvml.h, nvmlClocksEventReason*). Idle clocks and those that a user has set
#: are no surprise, and left out.
THERMAL = "temperature"
_SLOWED_BY = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: THERMAL,
    0x40: THERMAL,
    0x80: "power brake",
}


def read_gpu_state(root: Path = Path("/"), timeout_s: float = 10.0) -> dict[str, Any] | None:
    """Returns what is told of the GPU that CUDA takes first; None where nothing is.

    It is sm_mhz, memory_mhz, temperature_c, power_w, power_limit_w and slowed_by (a list of
    reasons), each only where it is told: on a PC by `nvidia-smi`, on a Jetson by Linux.

    Args:
        root: The folder in which sys/ lies.
        timeout_s: The longest time for `nvidia-smi`.
    """
    return {**dict(_jetson(root)), **_smi(timeout_s)} or None


def parse_smi(line: str) -> dict[str, Any]:
    """Returns the figures in a line of `nvidia-smi`, the mask of reasons last."""
    *figures, mask = (cell.strip() for cell in line.split(","))
    state: dict[str, Any] = {
        name: float(cell)
        for name, cell in zip(_FIGURES.values(), figures, strict=False)
        if cell.replace(".", "", 1).isdecimal()
    }
    if mask.startswith("0x"):
        bits = int(mask, 16)
        reasons = (reason for bit, reason in _SLOWED_BY.items() if bits & bit)
        state["slowed_by"] = list(dict.fromkeys(reasons))
    return state


def _smi(timeout_s: float) -> dict[str, Any]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
    for reasons in _REASONS:
        asked = ",".join([*_FIGURES, reasons])
        words = [f"--query-gpu={asked}", "--format=csv,noheader,nounits", f"--id={gpu}"]
        answer = run_bounded([program, *words], timeout_s)
        lines = [line for line in answer.text.splitlines() if line.count(",") == len(_FIGURES)]
        if answer.code == 0 and lines:
            return parse_smi(lines[-1])
    return {}


def _jetson(root: Path) -> Iterator[tuple[str, Any]]:
    """Yields what Linux tells of a Tegra's GPU."""
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        # 17000000.ga10b on Orin, gpu-gpc-0 on Thor.
        if any(word in folder.name for word in ("gpu", "gv11b", "ga10b", "gp10b", "gb10b")):
            yield from _scaled("sm_mhz", folder / "cur_freq", 1e6)
            break
    for folder in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        if "gpu" in read_text(folder / "type").lower():
            yield from _scaled("temperature_c", folder / "temp", 1e3)
            break
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if read_text(folder / "in1_label") == "VDD_IN":  # all that the board draws
            volts, amperes = (read_number(folder / f"{name}1_input") for name in ("in", "curr"))
            if volts is not None and amperes is not None:
                yield "power_w", round(volts * amperes / 1e6, 2)


def _scaled(name: str, path: Path, unit: float) -> Iterator[tuple[str, float]]:
    number = read_number(path)
    if number is not None:
        yield name, number / unit
