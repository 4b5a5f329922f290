"""What one of several processes does: run by torchrun's environment, told what in argv.

`python training_ranks.py WHAT FOLDER` writes FOLDER/rank-N.safetensors; WHAT is "units", a
name in `SEARCHES` or a search method. Alone, a process does the work of all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dmcp_deploy.data.types import Batch
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.graph import Network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.training.distributed import (
    any_says,
    average_gradients,
    bytes_from_first,
    check_alike,
    is_main,
    join_torchrun,
    rank,
    text_from_first,
    wait_for_all,
    world_size,
)
from dmcp_deploy.training.evaluate import evaluate, recalibrate
from dmcp_deploy.training.precision import Precision
from dmcp_deploy.training.sync_norm import synced_norms
from dmcp_deploy.training.weights import save_tensors

#: Of a search. AutoSlim looks at a batch for every ten: each of two processes has one then.
STEPS = {"dmcp": 4, "autoslim": 20}

SYNCED_STEPS = 20
GLOBAL_BATCH = 16
IMAGES = 8  # of a global batch that is made here

_CPU = Precision(torch.device("cpu"), bf16=False, sync_bn=True)


def gradients() -> dict[str, Tensor]:
    """Each rank has its own gradients, and none where its slices left a parameter out."""
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (2, 1, 3, 3))]
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    parameters[0].grad = torch.full((2, 3), 1.0 + rank())
    if rank() == 0:
        parameters[1].grad = torch.arange(4.0)
    kernel = torch.arange(18.0).reshape(2, 1, 3, 3) * (1 + 2 * rank())
    parameters[2].grad = kernel.to(memory_format=torch.channels_last)
    loss, statistics = torch.tensor(10.0 * rank()), torch.full((3,), float(rank()))
    average_gradients([*parameters, frozen], [loss, statistics])
    assert frozen.grad is None
    found = {f"{index}": p.grad for index, p in enumerate(parameters) if p.grad is not None}
    numbers = {"rank": torch.tensor(rank()), "world": torch.tensor(world_size())}
    return {**found, **numbers, "loss": loss, "statistics": statistics}


def agreement() -> dict[str, Tensor]:
    """One rank alone says yes; one weight of one rank is another."""
    yes, no = any_says(rank() == 1, False)
    wait_for_all()
    longer = b"\0of the first\0" * 1000
    assert bytes_from_first(longer if is_main() else b"of another") == longer
    assert bytes_from_first(b"" if is_main() else b"of another") == b""
    assert text_from_first("first's" if is_main() else "") == "first's"
    whole = {"a": torch.arange(6.0), "b": torch.ones(2, 3, dtype=torch.float64)}
    check_alike(whole, "before")
    torn = {**whole, "b": whole["b"] + 1e-15 * rank()}
    try:
        check_alike(torn, "search, step 7")
        raised = ""
    except DmcpError as err:
        raised = str(err)
    assert raised.startswith("search, step 7: the processes of this run have come apart, b is")
    return {"yes": torch.tensor(yes), "no": torch.tensor(no)}


def norms() -> dict[str, Tensor]:
    """Batch norms over all images, with a loss that weights every image by its own number."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6, momentum=0.3),
        nn.Hardswish(),
        nn.Conv2d(6, 4, 3),
        nn.BatchNorm2d(4, affine=False),
        nn.Flatten(),
        nn.BatchNorm1d(64, momentum=None),
    )
    images = 5 + 2 * torch.randn(IMAGES, 3, 8, 8)
    factors = torch.randn(IMAGES, 64)
    own = share(IMAGES)
    inputs = images[own].requires_grad_()
    with synced_norms():
        outputs = net(inputs)
    (outputs * factors[own]).mean().backward()
    average_gradients(net.parameters())
    assert inputs.grad is not None
    # The images' gradients are those of the sum of all processes' losses.
    found = {"outputs": outputs.detach(), "images": inputs.grad / world_size()}
    found |= {
        f"gradient {name}": p.grad for name, p in net.named_parameters() if p.grad is not None
    }
    return found | {name: b for name, b in net.named_buffers() if b.is_floating_point()}


def judged() -> dict[str, Tensor]:
    """Recalibrates and evaluates a network on this process's share of uneven batches."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 3))
    own = judged_batches()[rank() :: world_size()]
    recalibrate(net, own, _CPU.alone(), shared=True)
    found = evaluate(net, own, _CPU.alone(), shared=True)
    figures = torch.tensor([found.top1, found.loss, found.images], dtype=torch.float64)
    buffers = {name: b for name, b in net.named_buffers() if b.is_floating_point()}
    return {"figures": figures, "side": torch.tensor(found.image_size), **buffers}


def judged_batches() -> Sequence[Batch]:
    """Returns three batches, the last one smaller."""
    generator = torch.Generator().manual_seed(3)
    sizes = (8, 8, 5)
    images = [torch.randn(n, 3, 12, 12, generator=generator) * n for n in sizes]
    labels = [torch.randint(3, (n,), generator=generator) for n in sizes]
    return [Batch(x, y) for x, y in zip(images, labels, strict=True)]


def share(images: int) -> slice:
    """Returns which of so many images are this process's."""
    size = images // world_size()
    return slice(rank() * size, (rank() + 1) * size)


def search(
    method: str, folder: Path, steps: int, network: Network | None = None, **options: Any
) -> dict[str, Tensor]:
    """A short search; returns its weights, and its widths as a tensor."""
    from search_problems import garments, make_problem, small_network

    from dmcp_deploy.search.run import find_method

    network = network or small_network()
    options = {"share": 0.9, "data": garments(), "max_steps": steps, **options}
    problem = make_problem(network, folder / "run", **options)
    result = find_method(method)(problem)
    widths = torch.tensor(list(result.widths.values()))
    parameters = {name: p.detach() for name, p in network.model.named_parameters()}
    return {**parameters, "widths": widths}


def smooth_network() -> Network:
    """Returns a network whose gradient has no jumps: rounding may not decide which side is taken.

    Among millions of values behind a ReLU some lie so near to zero.
    """
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, groups in ((3, 16, 3, 1), (16, 16, 3, 16), (16, 40, 1, 1)):
        options = {"stride": 2, "padding": kernel // 2, "groups": groups, "bias": False}
        convolution = nn.Conv2d(inputs, outputs, kernel, **options)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.SiLU()]
    # A gate behind a norm is a factor of its scale; behind SiLU, one of the weights that read it.
    layers += [nn.Conv2d(40, 24, 1, bias=False), nn.BatchNorm2d(24)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)]
    return trace_network(nn.Sequential(*layers, *head), NetworkSpec("smooth", 1.0, 10, (3, 32, 32)))


def synced_search(folder: Path, sampling: str = "expected") -> dict[str, Tensor]:
    """A search by a global batch of one size, however many processes share it."""
    from search_problems import RECIPE

    schedule = replace(RECIPE.search, batch_size=GLOBAL_BATCH // world_size())
    options = {"search": schedule, "precision": _CPU, "sampling": sampling, "share": 0.5}
    return search("dmcp", folder, SYNCED_STEPS, smooth_network(), **options)


def sampled_search(folder: Path) -> dict[str, Tensor]:
    """The same with the best of drawn plans."""
    return synced_search(folder, "markov")


#: What takes no folder and less than a second: all of it is done by "units".
UNITS = {"gradients": gradients, "agreement": agreement, "norms": norms, "judged": judged}
SEARCHES = {"synced": synced_search, "sampled": sampled_search}


def run(what: str, folder: Path) -> dict[str, Tensor]:
    """Does one of them, or a search by a method."""
    if what == "units":
        found = {name: do() for name, do in UNITS.items()}
        return {f"{name}/{key}": t for name, own in found.items() for key, t in own.items()}
    return SEARCHES[what](folder) if what in SEARCHES else search(what, folder, STEPS[what])


def part_of(found: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """Returns what one of the units has returned."""
    return {k.removeprefix(f"{what}/"): t for k, t in found.items() if k.startswith(f"{what}/")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    join_torchrun()
    what, folder = sys.argv[1], Path(sys.argv[2])
    save_tensors(run(what, folder), folder / f"rank-{rank()}.safetensors")
    assert is_main() == (rank() == 0)
    wait_for_all()
    dist.destroy_process_group()
