"""What Duo-100's processes do: searches, waves of dense networks, and a probe of their speed."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from duo100_data import CLASSES, SIDE, batches, open_splits
from duo100_files import Files
from duo100_steps import DenseLane, DmcpSearch, blind_widths
from torch import Tensor, nn

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.search.costs.asked import flops_limits
from dmcp_deploy.search.fit import WidthGrid, fit_widths, width_grid
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.space import search_space
from dmcp_deploy.training.evaluate import evaluate, recalibrate
from dmcp_deploy.training.precision import choose_precision
from dmcp_deploy.training.recipe import Recipe, Schedule

ALIGN, LAST = 2, 1280
LARGER = 1.35  # the budget of "uniform, larger" over the arm's
GRACE_S = 12.0  # by which work that has begun may outlast its time
_JUDGED, _RANDOM_PLANS = 5120, 8
_LARGER_BUDGET = 1.6  # a step's time at a further budget over that at the first one, about
_WORTHWHILE = 0.85  # of a step's time: trying out kernels takes time for every new shape
_PROBED = 80  # steps that a probe does
_PATIENCE = 200  # steps between two looks at the clock


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
        return NetworkCost(_network(self.options.base_width, 0)).full_macs

    @cached_property
    def supernet(self) -> Network:
        """The full network whose parts are trained; its weights are not."""
        return _network(self.options.width, 0)

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
        if arm == "budget-only":
            return dict(blind_widths(problem, self.options.search_steps))
        if "last kept" in arm:
            return _last_kept(problem)
        return problem.space.widths(problem.uniform_units(problem.limits))


def run_search(bench: Bench, files: Files, seed: int) -> None:
    """Searches for every budget from one first stage, and leaves a record of each."""
    options, steps = bench.options, bench.options.search_steps
    wanted = [(budget, "exp") for budget in options.budgets]
    wanted += [(options.budgets[0], "sigmoid")] * options.sigmoid
    left = [one for one in wanted if files.searched(*one, seed) is None]
    if not left:
        return
    began = time.time()
    torch.backends.cudnn.benchmark = False  # widths are many
    problem = bench.problem(_network(options.width, seed), left[0][0], seed)
    search = DmcpSearch(problem, 2 * steps, bench.splits["train"], options.search_graph)
    search.run(0, steps)
    search.keep()
    _wait()
    first_s = time.time() - began
    for budget, transition in left:
        began = time.time()
        what = f"search {seed}, {budget:.0%}, {transition}"
        if budget != options.budgets[0] and began + 1.3 * first_s > options.deadline:
            files.add({"kind": "left out", "what": what, "why": f"{first_s:.0f} s too long"})
            continue
        asked = bench.problem(problem.network, budget, seed)
        search.go_back(asked.limits, transition)
        search.run(steps, 2 * steps)
        _wait()
        widths, share = search.widths()
        record = {
            "kind": "search",
            "seed": seed,
            "budget": budget,
            "transition": transition,
            "widths": widths,
            "macs": problem.accounting.macs_at(widths),
            "expected_share": share,
            "final_loss": float(search.loss),
            "first_stage_s": first_s,
            "seconds": time.time() - began,
        }
        judged = _judged(bench, asked, widths)
        files.add({**record, **judged})


def run_wave(bench: Bench, files: Files, wave: Wave) -> None:
    """Trains a wave's networks side by side and leaves a record of each."""
    options, began = bench.options, time.time()
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    lanes = {}
    for seed in range(wave.seeds):
        if not files.trained(wave.arm, wave.budget, seed):
            search, widths = _plan(bench, files, wave, seed)
            lane = _lane(bench, wave, widths, seed, options.dense_steps)
            lanes[seed] = (search, widths, lane)
    if not _train(bench, [lane for _, _, lane in lanes.values()], options.dense_steps):
        files.add({"kind": "left out", "what": wave.name, "why": "it would not have ended in time"})
        return
    trained_s, cost = time.time() - began, NetworkCost(bench.supernet)
    torch.backends.cudnn.benchmark = False
    for seed, (search, widths, lane) in lanes.items():
        found = evaluate(lane.finish(), batches(*bench.test, 1000), bench.precision)
        files.add(
            {
                "kind": "dense",
                "arm": wave.arm,
                "budget": wave.budget,
                "seed": seed,
                "search": search,
                "widths": widths,
                "macs": cost.macs_at(widths),
                "params": sum(p.numel() for p in lane.model.parameters()),
                "top1": found.top1,
                "loss": found.loss,
                "final_loss": float(lane.loss),
                "side_by_side": len(lanes),
                "seconds": trained_s,
            }
        )


def probe_dense(bench: Bench, lanes: int) -> dict[str, Any]:
    """Returns milliseconds of a dense network's step, alone and side by side."""
    wave = Wave("uniform", bench.options.budgets[0], 1)
    widths = bench.unsearched("uniform", wave.budget)
    alone = {}
    for benchmark in (False, True):
        torch.backends.cudnn.benchmark = benchmark
        alone[benchmark] = _step_ms([_lane(bench, wave, widths, 0, _PROBED)])
    best = alone[True] < _WORTHWHILE * alone[False]
    torch.backends.cudnn.benchmark = best
    together = _step_ms([_lane(bench, wave, widths, seed, _PROBED) for seed in range(lanes)])
    return {
        "dense_ms": {"alone": alone[False], "alone, cudnn.benchmark": alone[True]},
        "dense_together_ms": together / lanes,
        "lanes": lanes,
        "cudnn_benchmark": best,
        "graph": bench.options.graph,
    }


def probe_search(bench: Bench) -> dict[str, Any]:
    """Returns milliseconds of a search's step in either stage."""
    torch.backends.cudnn.benchmark = False
    options = bench.options
    problem = bench.problem(_network(options.width, 0), options.budgets[0])
    search = DmcpSearch(problem, 80, bench.splits["train"], options.search_graph)
    stages = []
    for first in (0, 40):
        search.run(first, first + 10)
        stages.append(_ms(partial(search.run, first + 10, first + 40)) / 30)
    return {"search_ms": stages, "search_graph": options.search_graph}


def _step_ms(lanes: list[DenseLane]) -> float:
    for _ in range(10):
        for lane in lanes:
            lane.step()
    return _ms(lambda: [lane.step() for _ in range(64) for lane in lanes]) / 64


def _ms(work: Callable[[], object]) -> float:
    _wait()
    began = time.perf_counter()
    work()
    _wait()
    return 1e3 * (time.perf_counter() - began)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _train(bench: Bench, lanes: list[DenseLane], steps: int) -> bool:
    """Trains all networks step by step; gives up, with False, what cannot end in time."""
    began = time.time()
    for step in range(steps):
        for lane in lanes:
            lane.step()
        if step % _PATIENCE == 0:
            _wait()
            began = time.time() if step == 0 else began
            left_s = (time.time() - began) / max(step, 1) * (steps - step)
            if time.time() + left_s > bench.options.deadline + GRACE_S:
                return False
    _wait()
    return True


def _lane(bench: Bench, wave: Wave, widths: Mapping[str, int], seed: int, steps: int) -> DenseLane:
    # Networks of one number share neither weights nor images over the arms.
    own_seed = step_seed(seed, 0, wave.name)
    return DenseLane(
        make=lambda: fresh_network(bench.supernet, widths, own_seed),
        recipe=bench.recipe(),
        steps=steps,
        composites=bench.splits["train"],
        seed=own_seed,
        precision=bench.precision,
        graph=bench.options.graph,
    )


def _plan(bench: Bench, files: Files, wave: Wave, seed: int) -> tuple[int | None, dict[str, int]]:
    """Returns the search that a network's plan is of, if any, and the plan's widths."""
    if not wave.arm.startswith("dmcp"):
        return None, bench.unsearched(wave.arm, wave.budget)
    plans = files.plans(wave.arm, wave.budget)
    search = sorted(plans)[seed % len(plans)]
    return search, plans[search]


def _judged(bench: Bench, problem: SearchProblem, widths: dict[str, int]) -> dict[str, Any]:
    """Returns the recalibrated losses on the supernet of the plan and of unsearched ones."""
    _wait()
    device, size = bench.precision.device, bench.options.batch
    generator = torch.Generator(device).manual_seed(problem.request.seed + 1)
    drawn = bench.splits["train"].draw(problem.recipe.recalibration_batches * size, generator)
    images = [part[:_JUDGED] for part in bench.test]

    def loss(plan: Mapping[str, int]) -> float:
        dense = slice_network(problem.network, plan)
        recalibrate(dense, batches(*drawn, size), bench.precision)
        return evaluate(dense, batches(*images, 512), bench.precision).loss

    random, draws = [], torch.Generator().manual_seed(problem.request.seed)
    for _ in range(_RANDOM_PLANS):
        wanted = problem.space.random_units(draws).astype(float)
        units = fit_widths(problem.limits, problem.grid, wanted)
        random.append(loss(problem.space.widths(units)))
    plans = {
        "dmcp": widths,
        "uniform": problem.space.widths(problem.uniform_units(problem.limits)),
        "budget-only": blind_widths(problem, bench.options.search_steps),
    }
    return {
        "losses": {name: loss(plan) for name, plan in plans.items()},
        "random_losses": random,
        "judged_images": len(images[1]),
    }


def fresh_network(network: Network, widths: Mapping[str, int], seed: int) -> nn.Module:
    """Returns a network of given widths, initialised as torchvision does one of such widths."""
    model = slice_network(network, widths)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed % (1 << 62))
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
                nn.init.zeros_(module.bias)
    return model


def _network(width: float, seed: int) -> Network:
    from torchvision.models import mobilenet_v2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = mobilenet_v2(num_classes=CLASSES, width_mult=width, dropout=0.0)
    return trace_network(model, NetworkSpec("mobilenet_v2", width, CLASSES, (3, SIDE, SIDE)))


def _last_kept(problem: SearchProblem) -> dict[str, int]:
    """Returns the uniform widths of all groups but the last one, which keeps its 1280 channels."""
    last = int(np.argmax(problem.space.full))
    keep = min(LAST, int(problem.grid.high[last]))
    low, high = problem.grid.low.copy(), problem.grid.high.copy()
    low[last] = high[last] = keep // problem.grid.step[last] * problem.grid.step[last]
    grid = WidthGrid(low, high, problem.grid.step)
    wanted = problem.space.full.astype(float)
    return problem.space.widths(fit_widths(problem.limits, grid, wanted))


def planned_s(
    found: Mapping[str, Any], options: argparse.Namespace, budgets: int, *, searched: bool = False
) -> float:
    """Returns the seconds that the first budgets take, as probed; or those behind a search."""
    first, second = found["search_ms"]
    stages = (budgets - 1) * second if searched else first + budgets * second
    networks = 3 * options.seeds + max(2, options.seeds // 2)
    dense = networks * options.dense_steps * found["dense_together_ms"]
    search = options.searches * options.search_steps * stages
    return (search + dense * (1 + _LARGER_BUDGET * (budgets - 1))) / 1e3
