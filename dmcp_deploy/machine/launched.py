"""Whether torchrun, or another launcher like it, has started this process as one of several."""

from __future__ import annotations

import os


def is_launched() -> bool:
    """Returns whether a launcher has started this process as one of several."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def is_first() -> bool:
    """Returns whether this process runs alone, or is the first of those launched."""
    return not is_launched() or os.environ["RANK"] == "0"
