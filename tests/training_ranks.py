"""What one of several processes does: run by torchrun's environment, told what in argv.

`python training_ranks.py gradients|METHOD FOLDER` writes FOLDER/rank-N.safetensors.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dmcp_deploy.training.distributed import (
    average_gradients,
    is_main,
    join_torchrun,
    rank,
    world_size,
)
from dmcp_deploy.training.weights import save_tensors

#: Of a search. AutoSlim looks at a batch for every ten: each of two processes has one then.
STEPS = {"dmcp": 4, "autoslim": 20}


def gradients() -> dict[str, Tensor]:
    """Each rank has its own gradients, and none where its slices left a parameter out."""
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (2, 1, 3, 3))]
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    parameters[0].grad = torch.full((2, 3), 1.0 + rank())
    if rank() == 0:
        parameters[1].grad = torch.arange(4.0)
    kernel = torch.arange(18.0).reshape(2, 1, 3, 3) * (1 + 2 * rank())
    parameters[2].grad = kernel.to(memory_format=torch.channels_last)
    average_gradients([*parameters, frozen])
    assert frozen.grad is None
    found = {f"{index}": p.grad for index, p in enumerate(parameters) if p.grad is not None}
    return {**found, "rank": torch.tensor(rank()), "world": torch.tensor(world_size())}


def search(method: str, folder: Path) -> dict[str, Tensor]:
    """A short search; returns its weights, and its widths as a tensor."""
    from search_problems import garments, make_problem, small_network

    from dmcp_deploy.search.run import find_method

    network = small_network()
    options = {"share": 0.9, "data": garments(), "max_steps": STEPS[method]}
    problem = make_problem(network, folder / "run", **options)
    result = find_method(method).search(problem)
    widths = torch.tensor(list(result.widths.values()))
    parameters = {name: p.detach() for name, p in network.model.named_parameters()}
    return {**parameters, "widths": widths}


if __name__ == "__main__":
    torch.set_num_threads(1)
    join_torchrun()
    what, folder = sys.argv[1], Path(sys.argv[2])
    found = gradients() if what == "gradients" else search(what, folder)
    save_tensors(found, folder / f"rank-{rank()}.safetensors")
    assert is_main() == (rank() == 0)
    dist.destroy_process_group()
