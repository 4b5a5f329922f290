"""A GPU's clocks, temperature and power, from nvidia-smi or from a Jetson's Linux."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmcp_deploy.machine.gpu_state import parse_smi, read_gpu_state


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nvidia-smi is looked for, and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder / "nvidia-smi"


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("mask", "reasons"),
    [
        ("0x0000000000000000", []),
        ("0x0000000000000001", []),  # idle
        ("0x0000000000000002", []),  # clocks that a user has set
        ("0x0000000000000004", ["power cap"]),
        ("0x0000000000000020", ["temperature"]),
        ("0x0000000000000060", ["temperature"]),
        ("0x000000000000008C", ["power cap", "hardware slowdown", "power brake"]),
    ],
)
def test_the_mask_of_reasons_is_told_in_words(mask: str, reasons: list[str]) -> None:
    assert parse_smi(f"1, 1, 1, 1, 1, {mask}")["slowed_by"] == reasons


def test_what_a_gpu_does_not_tell_is_left_out() -> None:
    assert parse_smi("[N/A], [Not Supported], 45, N/A, 20.5, [N/A]") == {
        "temperature_c": 45,
        "power_limit_w": 20.5,
    }


def test_an_older_driver_is_asked_by_its_own_names(smi: Path) -> None:
    script(
        smi,
        'case "$*" in *event_reasons*) echo "Field is not valid"; exit 2;; esac\n'
        "echo '1410, 1215, 60, 99.9, 250.0, 0x4'",
    )
    found = read_gpu_state(smi.parent)
    assert found is not None
    assert (found["sm_mhz"], found["slowed_by"]) == (1410, ["power cap"])


def test_the_gpu_that_cuda_takes_first_is_asked_for(
    smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(smi, 'case "$*" in *--id=3*) echo "1, 2, 3, 4, 5, 0x0";; *) exit 6;; esac')
    assert read_gpu_state(smi.parent) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert read_gpu_state(smi.parent) is not None


@pytest.mark.parametrize(
    "text", ["echo 'Failed to initialize NVML'; exit 9", "sleep 60", "echo ,", "exit 0"]
)
def test_a_program_that_fails_or_hangs_is_no_answer(smi: Path, text: str) -> None:
    script(smi, text.replace("sleep", "/bin/sleep"))
    assert read_gpu_state(smi.parent, timeout_s=0.5) is None


def test_a_machine_without_a_gpu_has_no_state(tmp_path: Path, smi: Path) -> None:
    assert read_gpu_state(tmp_path) is None


@pytest.mark.parametrize("name", ["17000000.ga10b", "gpu-gpc-0", "17000000.gpu"])
def test_a_jetson_tells_in_small_files(tmp_path: Path, smi: Path, name: str) -> None:
    files = {
        f"devfreq/{name}/cur_freq": "1020000000",
        "devfreq/0000.emc/cur_freq": "5",
        "thermal/thermal_zone0/type": "cpu-thermal",
        "thermal/thermal_zone0/temp": "40000",
        "thermal/thermal_zone1/type": "gpu-thermal",
        "thermal/thermal_zone1/temp": "52250",
        "hwmon/hwmon1/in1_label": "VDD_IN",
        "hwmon/hwmon1/in1_input": "5000",
        "hwmon/hwmon1/curr1_input": "2500",
    }
    for file, text in files.items():
        path = tmp_path / "sys/class" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert read_gpu_state(tmp_path) == {"sm_mhz": 1020, "temperature_c": 52.25, "power_w": 12.5}
