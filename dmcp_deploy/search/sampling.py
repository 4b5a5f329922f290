"""From probabilities to the best of several draws, as judged on the trained supernet."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.search import markov
from dmcp_deploy.search.fit import fit_widths
from dmcp_deploy.search.judging import supernet_loss
from dmcp_deploy.search.problem import SearchProblem

_DRAWS = 2000  # per search: about 2% fall within 1% of the budget once its expectation is there
_DIGITS = 9  # of a draw's share of the budget


def best_draw(
    problem: SearchProblem, probabilities: Tensor
) -> tuple[np.ndarray, list[dict[str, float]]]:
    """Returns the best of several drawn networks, and how each of them did (DMCP, 3.4).

    A bounded number of draws is made; those nearest to the budget are repaired to meet it on
    the grid, where some may become one. Each plan is then judged on the trained supernet by its
    loss on training images without augmentation (no validation image is looked at).

    Args:
        problem: The search.
        probabilities: Transition probabilities on the CPU, shape [groups, K].

    Returns:
        Units [groups] of the best network, and "macs", "drawn_macs" and "loss" of each.
    """
    plans: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    for drawn in nearest_draws(problem, probabilities):
        units = fit_widths(problem.limits, problem.grid, drawn)
        plans.setdefault(units.tobytes(), (drawn, units))
    wanted, fitted = zip(*plans.values(), strict=True)
    losses = [supernet_loss(problem, units) for units in problem.progress_over(fitted, "draws")]
    reports = [
        {
            "drawn_macs": problem.accounting.macs(drawn),
            "macs": problem.accounting.macs(units),
            "loss": round(loss, 5),
        }
        for drawn, units, loss in zip(wanted, fitted, losses, strict=True)
    ]
    return fitted[int(np.argmin(losses))], reports


def nearest_draws(problem: SearchProblem, probabilities: Tensor) -> list[np.ndarray]:
    """Returns the draws nearest to the budget, units [groups] each, the nearest first.

    They are as many as the recipe's candidates, in a trial at most one for each of its steps. Of
    draws that are equally near those come first that were drawn first: what is below a billionth
    of the budget is how its sums were rounded.
    """
    generator = torch.Generator().manual_seed(step_seed(problem.request.seed, 0, "draws"))
    seen: dict[bytes, tuple[float, np.ndarray]] = {}
    for _ in range(_DRAWS):
        units = problem.space.units(markov.sample_steps(probabilities, generator).numpy())
        distance = round(abs(problem.limits.share(units) - 1.0), _DIGITS)
        seen.setdefault(units.tobytes(), (distance, units))
    ranked = sorted(seen.values(), key=lambda item: item[0])
    return [units for _, units in ranked[: problem.cap(problem.recipe.candidates)]]
