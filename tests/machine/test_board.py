from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dmcp_deploy.machine.board import JetPack, read_board, read_power_mode

ORIN = "NVIDIA Jetson AGX Orin Developer Kit"


def write_board(root: Path, l4t: str | None, model: str | None) -> Path:
    (root / "etc").mkdir()
    (root / "proc/device-tree").mkdir(parents=True)
    if l4t:
        (root / "etc/nv_tegra_release").write_text(l4t)
    if model:
        (root / "proc/device-tree/model").write_bytes(model.encode() + b"\0")
    return root


@pytest.mark.parametrize(
    ("head", "l4t", "jetpack"),
    [
        ("# R35 (release), REVISION: 4.1, GCID: 1", "35.4.1", JetPack("5", "8")),
        ("# R36 (release), REVISION: 3.0, GCID: 1", "36.3.0", JetPack("6.0", "8.6")),
        ("# R36 (release), REVISION: 4.3, GCID: 1", "36.4.3", JetPack("6.1 or 6.2", "10.3")),
        ("# R38 (release), REVISION: 4.0, GCID: 1", "38.4.0", JetPack("7.1", "10.13")),
        ("# R39 (release), REVISION: 2.0, GCID: 1", "39.2.0", JetPack("7.2", "10.16")),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "99.1.0", None),
        ("something else", None, None),
    ],
)
def test_the_release_of_jetson_linux_tells_the_jetpack(tmp_path, head, l4t, jetpack):
    text = f"{head}, BOARD: generic, EABI: aarch64\n# KERNEL_VARIANT: oot\n"
    board = read_board(write_board(tmp_path, text, ORIN))
    assert (board.model, board.l4t, board.jetpack) == (ORIN, l4t, jetpack)


def test_a_container_on_a_board_is_known_by_the_device_tree(tmp_path):
    board = read_board(write_board(tmp_path, None, ORIN))
    assert (board.model, board.l4t, board.jetpack) == (ORIN, None, None)


@pytest.mark.parametrize("model", [None, "Raspberry Pi 5 Model B"])
def test_any_other_machine_is_none(tmp_path, model):
    assert read_board(write_board(tmp_path, None, model)) is None


def write_nvpmodel(folder: Path, script: str) -> None:
    program = folder / "nvpmodel"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_the_power_mode_is_read_in_spite_of_complaints(tmp_path, monkeypatch):
    complaint = "NVPM ERROR: Error opening /sys/kernel/nvpmodel_emc_cap: 13"
    write_nvpmodel(tmp_path, f"printf 'NV Power Mode: MAXN_SUPER\\n2\\n{complaint}\\n'; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert read_power_mode() == "MAXN_SUPER"


@pytest.mark.parametrize("script", ["exit 1", "exec sleep 60"])
def test_a_power_mode_that_is_not_told_is_none(tmp_path, monkeypatch, script):
    write_nvpmodel(tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert read_power_mode(timeout_s=1) is None


def test_a_machine_without_nvpmodel_has_no_power_mode(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_power_mode() is None
