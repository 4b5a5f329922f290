"""What D4's processes do: searches, and waves of dense networks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from worth.duo_bench import Bench, Wave, network_of, wait
from worth.duo_data import batches
from worth.duo_files import Files
from worth.duo_search import DmcpSearch
from worth.duo_steps import DenseLane
from worth.plans import unsearched

from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.training.evaluate import evaluate, recalibrate

GRACE_S = 12.0  # by which work that has begun may outlast its time
_JUDGED, _RANDOM_PLANS = 5120, 8
_PATIENCE = 200  # steps between two looks at the clock


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
    problem = bench.problem(network_of(options.width, seed), left[0][0], seed)
    search = DmcpSearch(problem, 2 * steps, bench.splits["train"], options.search_graph)
    search.run(0, steps)
    search.keep()
    wait()
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
        wait()
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
            lane = bench.lane(wave, widths, seed, options.dense_steps)
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


def _train(bench: Bench, lanes: list[DenseLane], steps: int) -> bool:
    """Trains all networks step by step; gives up, with False, what cannot end in time."""
    began = time.time()
    for step in range(steps):
        for lane in lanes:
            lane.step()
        if step % _PATIENCE == 0:
            wait()
            began = time.time() if step == 0 else began
            left_s = (time.time() - began) / max(step, 1) * (steps - step)
            if time.time() + left_s > bench.options.deadline + GRACE_S:
                return False
    wait()
    return True


def _plan(bench: Bench, files: Files, wave: Wave, seed: int) -> tuple[int | None, dict[str, int]]:
    """Returns the search that a network's plan is of, if any, and the plan's widths."""
    if not wave.arm.startswith("dmcp"):
        return None, bench.unsearched(wave.arm, wave.budget)
    plans = files.plans(wave.arm, wave.budget)
    search = sorted(plans)[seed % len(plans)]
    return search, plans[search]


def _judged(bench: Bench, problem: SearchProblem, widths: dict[str, int]) -> dict[str, Any]:
    """Returns the recalibrated losses on the supernet of the plan and of unsearched ones."""
    wait()
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
        wanted = problem.space.random_units(draws)
        random.append(loss(problem.widths_near(wanted, problem.limits)))
    steps, arms = bench.options.search_steps, ("uniform", "budget-only")
    plans = {"dmcp": widths, **{arm: unsearched(problem, arm, steps) for arm in arms}}
    return {
        "losses": {name: loss(plan) for name, plan in plans.items()},
        "random_losses": random,
        "judged_images": len(images[1]),
    }
