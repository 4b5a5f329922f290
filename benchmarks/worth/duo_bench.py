"""What every process of D4 needs: the network and its full form, the data, the precision."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from worth.duo_data import CLASSES, SIDE, open_splits
from worth.duo_steps import DenseLane
from worth.plans import LARGER, fresh_network, unsearched

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.graph import Network
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.search.costs.asked import flops_limits
from dmcp_deploy.search.fit import width_grid
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.space import search_space
from dmcp_deploy.training.precision import choose_precision
from dmcp_deploy.training.recipe import Recipe, Schedule

ALIGN = 2


@dataclass(frozen=True)
class Wave:
    """Networks of one arm at one budget, trained side by side."""

    arm: str
    budget: float
    seeds: int

    @property
    def name(self) -> str:
        """What it is called in files."""
        return f"{self.arm} {self.budget:.0%}".replace(",", "")


class Bench:
    """What every process needs: networks, data, precision."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(1)
        self.options = options
        self.precision = choose_precision(options.device, "auto")
        self.splits = open_splits(options.data, self.precision.device)

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        """The fixed composites that networks are judged by."""
        return self.splits["test"].fixed(self.options.test_images, seed=20260)

    @cached_property
    def base_macs(self) -> int:
        """Multiply-adds of the network that budgets are shares of."""
        return NetworkCost(network_of(self.options.base_width, 0)).full_macs

    @cached_property
    def supernet(self) -> Network:
        """The full network whose parts are trained; its weights are not."""
        return network_of(self.options.width, 0)

    def recipe(self, transition: str = "exp") -> Recipe:
        """Returns how is searched and trained."""
        batch, peak = self.options.batch, self.options.lr
        return Recipe(
            name="duo100",
            search=Schedule(1, batch, peak / 10, peak, peak / 10, 0.05, 4e-5),
            train=Schedule(1, batch, peak / 10, peak, 0.0, 0.05, 4e-5),
            transition=transition,
            ema_decay=0.999,
        )

    def problem(self, network: Network, budget: float, seed: int = 0) -> SearchProblem:
        """Returns the search for a budget, a share of the base network's multiply-adds."""
        accounting, space = NetworkCost(network), search_space(network)
        return SearchProblem(
            network=network,
            accounting=accounting,
            space=space,
            grid=width_grid(space, ALIGN),
            limits=flops_limits(str(int(budget * self.base_macs)), accounting, space),
            data=None,
            recipe=self.recipe(),
            request=RunRequest(
                network=network.spec,
                budget=f"{budget:%}",
                data_digest="",
                weights_digest=None,
                recipe={},
                seed=seed,
            ),
            compute=Compute(),
            precision=self.precision,
            folder=Path(),
        )

    def unsearched(self, arm: str, budget: float) -> dict[str, int]:
        """Returns the widths of an arm that takes no search of images."""
        problem = self.problem(self.supernet, budget * (LARGER if "larger" in arm else 1))
        return unsearched(problem, arm, self.options.search_steps)

    def lane(self, wave: Wave, widths: Mapping[str, int], seed: int, steps: int) -> DenseLane:
        """Returns a network of a wave, about to be trained."""
        # Networks of one number share neither weights nor images over the arms.
        seed = step_seed(seed, 0, wave.name)
        return DenseLane(
            make=lambda: fresh_network(self.supernet, widths, seed),
            recipe=self.recipe(),
            steps=steps,
            composites=self.splits["train"],
            seed=seed,
            precision=self.precision,
            graph=self.options.graph,
        )


def network_of(width: float, seed: int) -> Network:
    """Returns the task's full network of a width, freshly initialised."""
    from torchvision.models import mobilenet_v2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = mobilenet_v2(num_classes=CLASSES, width_mult=width, dropout=0.0)
    return trace_network(model, NetworkSpec("mobilenet_v2", width, CLASSES, (3, SIDE, SIDE)))


def wait() -> None:
    """Waits for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
