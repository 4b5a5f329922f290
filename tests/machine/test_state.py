"""What is read of a machine before and after a measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmcp_deploy.machine.state import read_state


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which programs are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def write(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = root / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def cpu(core: int, **values: object) -> dict[str, str]:
    folder = f"devices/system/cpu/cpu{core}"
    return {f"{folder}/{name.replace('__', '/')}": str(value) for name, value in values.items()}


def test_load_governor_clock_and_heat_are_read_of_the_cores_that_count(tmp_path: Path) -> None:
    for core, khz in ((0, 800000), (2, 3000000), (3, 3500000)):
        write(
            tmp_path,
            **cpu(core, cpufreq__scaling_governor="performance" if core else "powersave"),
            **cpu(core, cpufreq__scaling_cur_freq=khz),
            **cpu(core, thermal_throttle__core_throttle_count=core),
        )
    write(tmp_path, **{"class/thermal/thermal_zone0/type": "acpitz"})
    write(tmp_path, **{"class/thermal/thermal_zone0/temp": "27800"})
    write(tmp_path, **{"class/thermal/thermal_zone1/type": "x86_pkg_temp"})
    write(tmp_path, **{"class/thermal/thermal_zone1/temp": "61500"})
    found = read_state([2, 3], root=tmp_path)
    assert len(found.pop("load_average")) == 3
    assert found == {
        "governor": "performance",
        "cpu_mhz": 3250,
        "cpu_temperature_c": 61.5,
        "cpu_slowdowns": 5,
    }


def test_what_a_machine_does_not_tell_is_left_out(tmp_path: Path) -> None:
    found = read_state([0], root=tmp_path)
    assert found.keys() == {"load_average"}
    assert json.loads(json.dumps(found)) == found


def test_the_gpu_is_read_only_if_it_is_measured(tmp_path: Path, programs: Path) -> None:
    smi = programs / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '1980, 2619, 45, 120.50, 700.00, 0x0000000000000000'\n")
    smi.chmod(0o755)
    assert "gpu" not in read_state([0], root=tmp_path)
    assert read_state([0], with_gpu=True, root=tmp_path)["gpu"] == {
        "sm_mhz": 1980,
        "memory_mhz": 2619,
        "temperature_c": 45,
        "power_w": 120.5,
        "power_limit_w": 700,
        "slowed_by": [],
    }


def test_a_jetsons_power_mode_is_told(tmp_path: Path, programs: Path) -> None:
    mode = programs / "nvpmodel"
    mode.write_text("#!/bin/sh\necho 'NV Power Mode: 15W'\necho 0\n")
    mode.chmod(0o755)
    assert read_state([0], root=tmp_path)["power_mode"] == "15W"
