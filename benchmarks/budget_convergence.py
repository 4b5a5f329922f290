"""What the alphas' steps come to without a network behind them, for the paper's budgets.

    python benchmarks/budget_convergence.py --out benchmarks/results/budget_convergence.json

Alone: for each budget and transition the alphas move for some steps by the budget loss only, as
the package moves them and in the other ways of `WAYS`. A search has converged if the expected MACs
end within 0.95 to 1.00 of the budget.

With a task: they follow a made-up task loss as well, strength * the mean over groups of worth *
sqrt(full / E[width]), with worths that differ by group and noise in every step; once as the package
adds a task, once as a plain sum. The gain is by how much the plan that is read from the expected
widths has a lower loss of this kind (of strength 1) than uniform widths at the same budget.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmcp_deploy.artifact import write_text
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.models import build_network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search.architecture import Architecture
from dmcp_deploy.search.budget_loss import BAND, budget_loss
from dmcp_deploy.search.costs.asked import flops_limits
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.fit import fit_widths, width_grid
from dmcp_deploy.search.space import SearchSpace, search_space
from dmcp_deploy.training.recipe import RECIPES

CASES = {
    ("mobilenet_v2", 1.5): ("300M", "211M", "97M", "87M", "59M", "43M"),
    ("resnet18", 1.0): ("1.04G",),
    ("resnet50", 1.0): ("2.8G", "2.2G", "1.1G", "278M"),
}
STEPS = {"exp": (60, 120, 600), "sigmoid": (2000,)}
TASK_STEPS = 600
STRENGTHS = (0.1, 1.0)
RECIPE = RECIPES["small"]


class _Unbounded(Architecture):
    """The same parameters, moved as far as the optimiser says."""

    def _shorten(self, before: Tensor, share: float) -> None:
        return


def _paper_loss(share: Tensor) -> Tensor:
    """The budget loss with differences relative to the budget below the band too."""
    return torch.log(1.0 - share) if float(share.detach()) < BAND[0] else budget_loss(share)


WAYS = {
    "package": (Architecture, budget_loss),
    "no bound": (_Unbounded, budget_loss),
    "paper's loss": (Architecture, _paper_loss),
}
#: A bound matters where searches come down to the budget, the loss below it where they come up.
TOLD = {"exp": ("package", "no bound"), "sigmoid": ("package", "paper's loss")}


def main() -> None:
    """Writes E[MACs] / budget at the end of every search, and what the plans are worth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/budget_convergence.json")
    )
    out = parser.parse_args().out
    alone: list[dict[str, Any]] = []
    with_task: list[dict[str, Any]] = []
    for case, space, limits in _cases():
        alone += [case | row for row in _alone(space, limits)]
        with_task += [case | row for row in _with_task(space, limits)]
        print(case, flush=True)
    content = {"torch": torch.__version__, "alone": alone, "with_task": with_task}
    write_text(out, json.dumps(content, indent=1) + "\n")
    _tell(alone, ("transition", "steps", "way"))
    _tell(with_task, ("transition", "strength", "added"))


def _cases() -> Iterator[tuple[dict[str, Any], SearchSpace, Limits]]:
    for (model, width), budgets in CASES.items():
        network = build_network(NetworkSpec(model, width))
        cost, space = NetworkCost(network), search_space(network)
        for flops in budgets:
            case = {"model": model, "width_mult": width, "flops": flops}
            yield case, space, flops_limits(flops, cost, space)


def _alone(space: SearchSpace, limits: Limits) -> Iterator[dict[str, Any]]:
    for transition, lengths in STEPS.items():
        for steps in lengths:
            for way in TOLD[transition]:
                kind, loss = WAYS[way]
                architecture = kind(space, limits, transition, torch.device("cpu"))
                shares = []
                for step in range(steps):
                    budget = RECIPE.budget_weight * loss(architecture.expected_share())
                    shares.append(architecture.move(budget, RECIPE.alpha_lr_at(step / steps)))
                arrived = (step for step, share in enumerate(shares) if _is_inside(share))
                yield {
                    "transition": transition,
                    "steps": steps,
                    "way": way,
                    "start": round(shares[0], 4),
                    "share": _share(architecture),
                    "arrived": next(arrived, None),
                }


class _Task:
    """The made-up task loss; two of the same groups are alike."""

    def __init__(self, space: SearchSpace) -> None:
        worths = np.random.default_rng(0).lognormal(size=len(space.names))
        self._worths = torch.from_numpy(worths / worths.mean())
        self._full = torch.from_numpy(space.full).double()
        self._noise = torch.Generator().manual_seed(0)

    def at(self, units: Tensor) -> Tensor:
        return (self._worths * (self._full / units).sqrt()).mean()

    def noisy(self, units: Tensor) -> Tensor:
        """The loss as a minibatch has it: each group's worth is off by as much as it is."""
        noise = torch.randn(len(units), generator=self._noise, dtype=torch.float64)
        return (self._worths * (1 + noise) * (self._full / units).sqrt()).mean()


def _with_task(space: SearchSpace, limits: Limits) -> Iterator[dict[str, Any]]:
    grid = width_grid(space, 1)
    uniform = fit_widths(limits, grid, space.full.astype(np.float64))
    for transition in STEPS:
        for strength in STRENGTHS:
            for added in ("package", "sum"):
                architecture = Architecture(space, limits, transition, torch.device("cpu"))
                task = _Task(space)
                for step in range(TASK_STEPS):
                    _move(
                        architecture,
                        strength * task.noisy(architecture.expected_units()),
                        added,
                        step,
                    )
                wanted = architecture.expected_units().detach().numpy()
                plans = uniform, fit_widths(limits, grid, wanted)
                losses = [float(task.at(torch.from_numpy(plan))) for plan in plans]
                yield {
                    "transition": transition,
                    "strength": strength,
                    "added": added,
                    "share": _share(architecture),
                    "gain": round(losses[0] - losses[1], 4),
                }


def _move(architecture: Architecture, task: Tensor, added: str, step: int) -> None:
    budget = RECIPE.budget_weight * budget_loss(architecture.expected_share())
    rate = RECIPE.alpha_lr_at(step / TASK_STEPS)
    if added == "sum":
        architecture.move(budget + task, rate)
    else:
        architecture.move(budget, rate, task)


def _share(architecture: Architecture) -> float:
    return round(float(architecture.expected_share().detach()), 4)


def _is_inside(share: float) -> bool:
    return BAND[0] <= share <= BAND[1]


def _tell(rows: list[dict[str, Any]], by: tuple[str, ...]) -> None:
    """Prints for each kind of row how many ended inside, between which shares, and their gain."""
    kinds: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(tuple(row[name] for name in by), []).append(row)
    for kind, ones in kinds.items():
        shares = [row["share"] for row in ones]
        gains = [row["gain"] for row in ones if "gain" in row]
        gain = f", mean gain {np.mean(gains):+.4f}" if gains else ""
        late = [row["arrived"] for row in ones if row.get("arrived") is not None]
        when = f", the last arrived at step {max(late)}" if late else ""
        inside = sum(map(_is_inside, shares))
        print(*kind, f"{inside} of {len(ones)} inside, {min(shares)} to {max(shares)}{when}{gain}")


if __name__ == "__main__":
    main()
