"""Freed memory stays with the process in a loop, and goes back behind it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
from tiny_runs import ENVIRONMENT

_SCRIPT = """
import torch
from dmcp_deploy.training.allocator import freed_memory_kept

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * 4096 / 2**20

def use():
    torch.ones(100 * 2**20, dtype=torch.uint8)

before = resident()
with freed_memory_kept() as kept:
    use()
    inside = resident()
behind = resident()
use()
print(kept, inside - before > 90, behind - before < 40, resident() - before < 40)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_is_kept_in_the_block_and_given_back_behind_it() -> None:
    command = [sys.executable, "-c", _SCRIPT]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 4
