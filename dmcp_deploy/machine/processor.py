"""What the processor's instructions mean for networks."""

from __future__ import annotations

from pathlib import Path

from dmcp_deploy.machine.sysfs import read_text


def adds_int8_in_16_bits(root: Path = Path("/")) -> bool:
    """Returns whether runtimes add up products of INT8 in 16 bits here, which may not hold them.

    It is so on x86 with AVX2 but without VNNI. Other architectures have no such kernels.

    Args:
        root: The folder in which proc/ lies.
    """
    lines = read_text(root / "proc/cpuinfo").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return "avx2" in flags and not {"avx512_vnni", "avx_vnni"} & set(flags)
