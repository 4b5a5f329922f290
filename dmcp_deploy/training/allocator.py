"""Memory that a step frees is kept for the next one, rather than given back page by page."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
#: What glibc comes to by itself in a process that frees large blocks.
_USUAL = ((_MMAP_MAX, 65_536), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))
_KEPT = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))


@contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Has this process's allocator keep what is freed during the block, and give it back behind.

    By default glibc maps every large activation anew in every step, and the kernel clears its
    pages: a fifth of a step's time on a CPU. Other C libraries are left as they are. Yields
    whether memory is kept.
    """
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield False
        return
    try:
        yield all(libc.mallopt(*option) for option in _KEPT)
    finally:
        for option in _USUAL:
            libc.mallopt(*option)
        libc.malloc_trim(0)
