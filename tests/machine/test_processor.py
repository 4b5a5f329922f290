from __future__ import annotations

import pytest

from dmcp_deploy.machine.processor import adds_int8_in_16_bits


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu sse4_1 avx avx2 fma", True),
        ("flags\t\t: fpu avx2 avx512f avx512bw avx512vl avx512dq", True),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", False),
        ("flags\t\t: fpu avx2 avx_vnni", False),
        ("flags\t\t: fpu sse4_1", False),  # its kernels widen to 16 bits before they multiply
        ("Features\t: fp asimd asimddp", False),
    ],
)
def test_x86_with_avx2_and_without_vnni_adds_up_in_16_bits(tmp_path, line, expected):
    (tmp_path / "proc").mkdir()
    text = f"processor\t: 0\nmodel name\t: avx2\n{line}\nbugs\t\t: avx_vnni\n"
    (tmp_path / "proc/cpuinfo").write_text(text)
    assert adds_int8_in_16_bits(tmp_path) is expected


def test_a_machine_that_does_not_tell_is_not_warned_of(tmp_path):
    assert not adds_int8_in_16_bits(tmp_path)
