"""Search problems for tests: a network and a budget, all other fields with a sensible value."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from needs import need
from torch import Tensor, nn

from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.loader import train_batches
from dmcp_deploy.data.sources import ArrayImages
from dmcp_deploy.data.types import Batch, ImageData
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.models import build_network
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.search.costs.asked import flops_limits
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.costs.macs import MacsCost
from dmcp_deploy.search.fit import width_grid
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.space import search_space
from dmcp_deploy.training.precision import Precision
from dmcp_deploy.training.recipe import Recipe, Schedule

FP32 = Precision(torch.device("cpu"), bf16=False)
RECIPE = Recipe(
    name="test",
    search=Schedule(1, 16, 0.02, 0.05, 0.01, 0.05, 1e-4),
    train=Schedule(1, 16, 0.02, 0.05, 0.0, 0.05, 1e-4),
    candidates=5,
    recalibration_batches=4,
)


#: The budgets of DMCP's ImageNet table, in millions of multiply-adds.
PAPER_BUDGETS = {
    ("mobilenet_v2", 1.5): (
        300_000_000,
        211_000_000,
        97_000_000,
        87_000_000,
        59_000_000,
        43_000_000,
    ),
    ("mobilenet_v2", 1.0): (
        300_000_000,
        211_000_000,
        97_000_000,
        87_000_000,
        59_000_000,
        43_000_000,
    ),
    ("resnet18", 1.0): (1_040_000_000,),
    ("resnet50", 1.0): (2_800_000_000, 2_200_000_000, 1_100_000_000, 278_000_000),
}
PAPER_ROWS = [(*key, macs) for key, budgets in PAPER_BUDGETS.items() for macs in budgets]


def paper_network(model: str, width_mult: float = 1.0) -> Network:
    """Returns a full-size network at 224 pixels, for its groups and cost; not to be trained."""
    return _built(NetworkSpec(model, width_mult), 0)


def fresh_network(spec: NetworkSpec, seed: int = 0) -> Network:
    """Returns what `build_network` returns, traced once for all tests of a process."""
    return copy.deepcopy(_built(spec, seed))


def chain_network(channels: Sequence[int], width_mult: float = 1.0) -> Network:
    """Returns convolutions of 1x1 one behind the other: one group for each number of channels."""
    sizes = list(pairwise((3, *channels)))
    layers = [nn.Conv2d(inputs, outputs, 1) for inputs, outputs in sizes]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 2)]
    return trace_network(
        nn.Sequential(*layers, *head), NetworkSpec("chain", width_mult, 2, (3, 4, 4))
    )


def small_network(seed: int = 0) -> Network:
    """Returns `small_mobilenet` at 32 pixels, freshly initialised."""
    spec = NetworkSpec("small_mobilenet:small_mobilenet", 1.0, 10, (3, 32, 32))
    return fresh_network(spec, seed)


def make_problem(
    network: Network,
    folder: Path,
    *,
    share: float = 0.25,
    budget_macs: int | None = None,
    align: int = 1,
    **changes: Any,
) -> SearchProblem:
    """Returns a search for a share of a network's MACs.

    Args:
        network: The network.
        folder: Where its files go.
        share: The budget as a share of the full network's MACs.
        budget_macs: The budget in MACs; None for the share.
        align: Of the grid of widths.
        **changes: Fields of `SearchProblem`, `RunRequest`, `Compute` or `Recipe` that differ from
            the defaults.
    """
    accounting, space = NetworkCost(network), search_space(network)
    macs = int(share * accounting.full_macs) if budget_macs is None else budget_macs
    problem = SearchProblem(
        network=network,
        accounting=accounting,
        space=space,
        grid=width_grid(space, align),
        limits=macs_limits(network, macs),
        data=None,
        recipe=RECIPE,
        request=asked_of(network.spec),
        compute=Compute(),
        precision=FP32,
        folder=folder,
    )
    return changed(problem, **changes)


def macs_limits(network: Network, macs: int) -> Limits:
    """Returns a FLOPs budget alone, as the limits of a search."""
    return flops_limits(str(macs), NetworkCost(network), search_space(network))


def asked_macs(problem: SearchProblem) -> int:
    """Returns the FLOPs budget of a search."""
    (macs,) = (limit.most for limit in problem.limits.limits if limit.cost.name == MacsCost.name)
    return int(macs)


def asked_of(spec: NetworkSpec, **settings: Any) -> RunRequest:
    """Returns a request for a network; what is resolved from data and files is left out."""
    return RunRequest(
        network=spec, budget="25%", data_digest="", weights_digest=None, recipe={}, **settings
    )


def changed(problem: SearchProblem, **changes: Any) -> SearchProblem:
    """Returns a search with other fields, of its own or of what it holds."""
    parts = {"request": problem.request, "compute": problem.compute, "recipe": problem.recipe}
    own = {name: changes.pop(name) for name in changes.keys() & vars(problem).keys()}
    for name, part in parts.items():
        fields = changes.keys() & vars(part).keys()
        new = replace(part, **{field: changes.pop(field) for field in fields})
        own.setdefault(name, new)
    assert not changes, changes
    return replace(problem, **own)


@functools.cache
def garments() -> ImageData:
    """Returns Fashion-MNIST; skips the test where there is none."""
    need("fashion-mnist")
    return open_data("fashion-mnist")


@functools.cache
def noise_data(classes: int, count: int = 64, side: int = 40) -> ImageData:
    """Returns `count` pictures of noise to train on, and as many others to judge by.

    They are cropped at random like ImageNet's; their labels are spread over all classes.
    """
    train, val = (
        ArrayImages(partial(_noise, count, side, seed), _labels(classes, count), channels=3)
        for seed in (0, 1)
    )
    names = tuple(f"n{number:08d}" for number in range(classes))
    return ImageData("noise", "Noise.", names, train, val, "imagenet", "sha256:0")


def some_batch(size: int = 16, *, step: int = 0, image_size: int = 32) -> Batch:
    """Returns a training batch of garments."""
    batches = train_batches(
        garments(), image_size=image_size, batch_size=size, seed=0, start_step=step, steps=1
    )
    return next(batches)


@functools.cache
def _built(spec: NetworkSpec, seed: int) -> Network:
    return build_network(spec, seed)


def _noise(count: int, side: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def _labels(classes: int, count: int) -> Tensor:
    return torch.arange(count) * max(1, classes // count) % classes
