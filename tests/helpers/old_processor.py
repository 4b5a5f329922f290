"""x86 with AVX2 and without VNNI: this processor, or one that QEMU computes for a process."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess

import pytest

from dmcp_deploy.machine.processor import adds_int8_in_16_bits

#: The first release that computes AVX2; without it, ONNX Runtime takes kernels that are exact.
_FIRST_QEMU = (7, 2)


def words_before_command() -> tuple[str, ...]:
    """Returns what runs a command on such a processor if written before it, or skips the test."""
    if adds_int8_in_16_bits():
        return ()
    if platform.machine() != "x86_64":
        pytest.skip(f"INT8 is added up in 16 bits on x86 alone, and this is {platform.machine()}")
    qemu = shutil.which("qemu-x86_64")
    if qemu is None or _version(qemu) < _FIRST_QEMU:
        pytest.skip("no qemu-x86_64 of version 7.2 or newer: apt-get install qemu-user")
    return (qemu, "-cpu", "Haswell")


def _version(qemu: str) -> tuple[int, ...]:
    told = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout
    number = re.search(r"version (\d+)\.(\d+)", told)
    return tuple(map(int, number.groups())) if number else (0,)
