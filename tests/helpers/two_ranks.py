"""Two processes that know of one another as torchrun would tell them, and talk by gloo."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import warm

WORLD = 2


def on_two_ranks(command: Sequence[object], timeout: float = 240) -> list[str]:
    """Runs a command in two processes, to its end; returns what they print."""
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(WORLD),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    ranks = [{**shared, "RANK": str(number), "LOCAL_RANK": str(number)} for number in range(WORLD)]
    with ExitStack() as stack:
        processes = [stack.enter_context(warm.Process(command, rank)) for rank in ranks]
        written = [process.communicate(timeout) for process in processes]
    for process, (_, errors) in zip(processes, written, strict=True):
        assert process.returncode == 0, errors
    return [printed for printed, _ in written]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
