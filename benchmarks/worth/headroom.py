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
from torch import Tensor, nn
from worth.lab import Lab, trained
from worth.plans import LARGER, unsearched
from worth.ratios import gated_worth, sliced_worth

from dmcp_deploy.data.loader import eval_batches
from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.trace import evaluating
from dmcp_deploy.run.context import RunContext
from dmcp_deploy.search import autoslim, evolution
from dmcp_deploy.search.costs.asked import flops_limits
from dmcp_deploy.search.evolution import Evolution, Plan
from dmcp_deploy.search.fit import fit_widths
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.steps import recalibration_batches
from dmcp_deploy.search.temperature import best_factor, scaled_cross_entropy
from dmcp_deploy.training.evaluate import recalibrate

Record = dict[str, Any]

#: The best plan of an evolution.
BEST = "best found"

#: Of the budget. Plans are compared at equal multiply-adds, and a nat is worth a few percent.
_NEAREST = 0.995
_BATCH = 500


@dataclass(frozen=True)
class Judge:
    """Losses of plans on a trained supernet: batch norms recalibrated, logits at their best scale.

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
        """Returns loss and accuracy of plans by the images seen, as an evolution asks for them."""
        judged = []
        for plan in plans:
            logits, labels = self.logits(self.network(np.array(plan)), self.seen)
            right = float((logits.argmax(1) == labels).double().mean())
            judged.append((_scaled_loss(logits, labels), right))
        return judged

    @torch.no_grad()
    def logits(self, network: nn.Module, images: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """Returns a network's logits [N, classes] of some images, and their labels [N]."""
        precision = self.problem.precision
        batches = [precision.move(batch) for batch in images]
        with evaluating(network), precision.autocast():
            logits = [network(batch.images).float() for batch in batches]
        return torch.cat(logits), torch.cat([batch.labels for batch in batches])

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
    rules = Evolution(
        values=evolution.gene_values(problem.space, problem.grid),
        fit=partial(fitted, problem),
        population=population,
        generations=generations,
        seed=seed,
    )
    for name, units in plans.items():  # what is known before the long part
        loss = _scaled_loss(*judge.logits(judge.network(units), judge.unseen))
        print(f"{lab.task}/{seed} {name}: {loss:.4f}", flush=True)
    starts = list(plans.values())
    judged = evolution.run_evolution(problem, rules, judge, name="headroom", starts=starts)
    (best,) = evolution.best_of(judged, 1)
    plans[BEST] = np.array(best.plan)
    hard = {name: sliced_worth(judge, plans[name]) for name in ("uniform", "dmcp", BEST)}
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
    logits, labels = judge.logits(network, judge.unseen)
    factor = best_factor(logits, labels)
    return {
        "macs": judge.problem.accounting.macs(units),
        "share": judge.problem.limits.share(units),
        "seen_loss": _scaled_loss(*judge.logits(network, judge.seen)),
        "loss": float(F.cross_entropy(logits, labels)),
        "top1": float((logits.argmax(1) == labels).double().mean()),
        "scaled_loss": float(F.cross_entropy(factor * logits, labels)),
        "logit_factor": float(factor),
    }


def _scaled_loss(logits: Tensor, labels: Tensor) -> float:
    return float(scaled_cross_entropy(logits, labels)) / len(labels)
