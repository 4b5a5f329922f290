"""The seed of one step: batches and draws depend on it alone."""

from __future__ import annotations

import hashlib


def step_seed(seed: int, step: int, purpose: str = "step") -> int:
    """Returns the seed of one step, well mixed from the run's seed."""
    text = f"{seed}:{purpose}:{step}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")
