"""One process, and two that talk by gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_ranks
from torch import Tensor, nn

from dmcp_deploy.training.distributed import average_gradients, is_main, rank, world_size
from dmcp_deploy.training.metrics import read_metrics
from dmcp_deploy.training.weights import read_tensors

WORLD = 2


def test_a_process_alone_is_the_first_of_one_and_keeps_its_gradients():
    assert (rank(), world_size(), is_main()) == (0, 1, True)
    one, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    one.grad = torch.ones(2)
    average_gradients([one, other])
    assert torch.equal(one.grad, torch.ones(2))
    assert other.grad is None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_two_ranks(what: str, folder: Path) -> list[dict[str, Tensor]]:
    """Runs `training_ranks` as torchrun would, and returns what each rank has written."""
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(WORLD),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, training_ranks.__file__, what, str(folder)],
            env={**shared, "RANK": str(number), "LOCAL_RANK": str(number)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(WORLD)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * WORLD, "\n".join(errors)
    return [read_tensors(folder / f"rank-{number}.safetensors") for number in range(WORLD)]


@pytest.mark.slow
def test_gradients_become_the_mean_over_both_processes(tmp_path):
    ranks = on_two_ranks("gradients", tmp_path)
    assert [int(found["rank"]) for found in ranks] == [0, 1]
    for found in ranks:
        assert int(found["world"]) == WORLD
        assert torch.equal(found["0"], torch.full((2, 3), 1.5))
        # A gradient that one process lacks counts as zero there.
        assert torch.equal(found["1"], torch.arange(4.0) / 2)
        assert torch.equal(found["2"], 2 * torch.arange(18.0).reshape(2, 1, 3, 3))


@pytest.mark.slow
@pytest.mark.usefixtures("fashion_mnist")
@pytest.mark.parametrize("method", ["dmcp", "autoslim"])
def test_a_search_on_two_processes_is_one_search(method, tmp_path):
    first, second = on_two_ranks(method, tmp_path)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    # The first process alone writes, and writes each step once.
    reports = read_metrics(tmp_path / "run/metrics/search.jsonl")
    assert [report["step"] for report in reports] == list(range(training_ranks.STEPS[method]))
    assert [file.name for file in (tmp_path / "run/metrics").iterdir()] == ["search.jsonl"]
