"""How good a search's plan is on its own supernet, beside the best that can be found there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from worth.lab import SURROGATE, Lab, trained
from worth.plans import LARGER, unsearched
from worth.ratios import gated_worth, sliced_worth

from dmcp_deploy.data.loader import eval_batches
from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.run.context import RunContext
from dmcp_deploy.search import autoslim, evolution, surrogate
from dmcp_deploy.search.costs.asked import flops_limits
from dmcp_deploy.search.evolution import Evolution, Plan
from dmcp_deploy.search.fit import fit_widths
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.steps import recalibration_batches
from dmcp_deploy.training.evaluate import evaluate, recalibrate

Record = dict[str, Any]

#: Of the budget. Plans are compared at equal multiply-adds, and a nat is worth a few percent.
_NEAREST = 0.995
_BATCH = 500
_FACTORS = [round(1.02**k, 4) for k in range(-50, 51)]  # of logits: 0.37 to 2.69


@dataclass(frozen=True)
class Judge:
    """Losses of plans on a trained supernet, batch norms recalibrated for each.

    Attributes:
        problem: The search, its network the trained supernet.
        recalibration: Training batches.
        seen: Images that plans may be chosen by; nothing was trained on them.
        unseen: Others, by which they are reported: twice as many where there are so many.
    """

    problem: SearchProblem
    recalibration: Sequence[Batch]
    seen: Sequence[Batch]
    unseen: Sequence[Batch]

    @classmethod
    def make(cls, problem: SearchProblem, images: int) -> Judge:
        """Returns a judge by so many images."""
        size = min(images, _BATCH)
        found = eval_batches(
            problem.data.val, image_size=problem.image_size, batch_size=size, limit=3 * images
        )
        chosen_by = images // size
        recalibration = list(recalibration_batches(problem))
        return cls(problem, recalibration, list(islice(found, chosen_by)), list(found))

    def __call__(self, plans: Iterable[Plan]) -> list[tuple[float, float]]:
        """Returns loss and accuracy of plans, as an evolution asks for them."""
        return [self.loss(np.array(plan), self.seen) for plan in plans]

    def loss(self, units: np.ndarray, images: Sequence[Batch]) -> tuple[float, float]:
        """Returns the loss and the accuracy of a plan, units [groups], on some images."""
        found = evaluate(self.network(units), images, self.problem.precision)
        return found.loss, found.top1

    def network(self, units: np.ndarray) -> nn.Module:
        """Returns the network of a plan, its batch norms recalibrated."""
        dense = slice_network(self.problem.network, self.problem.space.widths(units))
        recalibrate(dense, self.recalibration, self.problem.precision)
        return dense


def headroom(
    lab: Lab, seed: int, *, images: int, population: int, generations: int, held_out: int
) -> Record:
    """Searches by DMCP, and judges its plan beside others on the supernet that it leaves.

    Args:
        lab: The task.
        seed: Of the search.
        images: To choose by.
        population: Plans in a generation of the evolution.
        generations: Of the evolution.
        held_out: Training images that greedy slimming judges by.
    """
    context = lab.searched(seed)
    problem, task = trained(context)
    judge = Judge.make(problem, images)
    plans = _plans(context, problem, lab.search_steps // 2, held_out)
    found, _ = surrogate.best_plan(problem, problem.accounting.units(context.plan().widths()))
    plans[SURROGATE] = fitted(problem, found)
    rules = Evolution(
        values=evolution.gene_values(problem.space, problem.grid),
        fit=partial(fitted, problem),
        population=population,
        generations=generations,
        seed=seed,
    )
    for name, units in plans.items():  # what is known before the long part
        print(f"{lab.task}/{seed} {name}: {judge.loss(units, judge.unseen)[0]:.4f}", flush=True)
    starts = list(plans.values())
    judged = evolution.run_evolution(problem, rules, judge, name="headroom", starts=starts)
    (best,) = evolution.best_of(judged, 1)
    plans["best found"] = np.array(best.plan)
    hard = {name: sliced_worth(judge, plans[name]) for name in ("uniform", "dmcp", "best found")}
    soft = gated_worth(problem, task.architecture, task.task_loss, judge.seen)
    groups = [
        {
            "name": name,
            "widths": {plan: int(units[g]) for plan, units in plans.items()},
            "gated": soft[g],
            "sliced": {plan: hard[plan][g] for plan in hard},
        }
        for g, name in enumerate(problem.space.names)
    ]
    larger = flops_limits(f"{LARGER * lab.budget:g}%", problem.accounting, problem.space)
    random = [one.loss for one in judged[len(starts) :] if one.generation == 0]
    return {
        "seed": seed,
        "expected_share": float(task.architecture.expected_share().detach()),
        "plans": {name: _judgement(judge, units) for name, units in plans.items()},
        "larger": _judgement(judge, problem.uniform_units(larger)),
        "random": random,
        "plans_judged": len(judged),
        "groups": groups,
    }


def fitted(problem: SearchProblem, units: np.ndarray) -> np.ndarray:
    """Returns a plan in [0.995, 1.00] of the budget where the grid has one; such stay as are."""
    if _NEAREST <= problem.limits.share(units) <= 1.0:
        return units
    return fit_widths(problem.limits, problem.grid, units.astype(np.float64))


def _plans(
    context: RunContext, problem: SearchProblem, steps: int, held_out: int
) -> dict[str, np.ndarray]:
    """Returns the plans to compare, at equal multiply-adds, units [groups] each."""
    units = problem.accounting.units
    slimming = replace(problem, recipe=replace(problem.recipe, held_out_images=held_out))
    plans = {
        "dmcp": units(context.plan().widths()),
        "uniform": units(unsearched(problem, "uniform", steps)),
        "budget-only": units(unsearched(problem, "budget-only", steps)),
        "autoslim": autoslim.slim(slimming, [problem.limits])[0],
    }
    return {name: fitted(problem, plan) for name, plan in plans.items()}


def _judgement(judge: Judge, units: np.ndarray) -> Record:
    network = judge.network(units)
    seen, unseen = (
        evaluate(network, images, judge.problem.precision) for images in (judge.seen, judge.unseen)
    )
    scaled_loss, factor = _scaled_loss(network, judge)
    return {
        "macs": judge.problem.accounting.macs(units),
        "share": judge.problem.limits.share(units),
        "seen_loss": seen.loss,
        "loss": unseen.loss,
        "top1": unseen.top1,
        "scaled_loss": scaled_loss,
        "logit_factor": factor,
    }


@torch.no_grad()
def _scaled_loss(network: nn.Module, judge: Judge) -> tuple[float, float]:
    """Returns the least loss on the unseen images over factors of all logits, and the factor.

    A network that is trained anew finds the scale of its logits by itself; on a supernet that scale
    falls as the last layer's inputs become fewer.
    """
    precision = judge.problem.precision
    batches = [precision.move(batch) for batch in judge.unseen]
    with precision.autocast():
        logits = torch.cat([network.eval()(batch.images).float() for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    losses = [float(F.cross_entropy(factor * logits, labels)) for factor in _FACTORS]
    return min(zip(losses, _FACTORS, strict=True))
