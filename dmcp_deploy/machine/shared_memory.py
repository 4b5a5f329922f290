"""The memory that processes share, which containers often have little of."""

from __future__ import annotations

import os
from pathlib import Path

_PLACE = Path("/dev/shm")


def free_shared_bytes(place: Path = _PLACE) -> int | None:
    """Returns how much of the shared memory is free; None where the platform does not tell."""
    if not hasattr(os, "statvfs"):
        return None
    try:
        state = os.statvfs(place)
    except OSError:
        return None
    return state.f_bavail * state.f_frsize
