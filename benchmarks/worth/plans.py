"""Plans that no search of images has made, and networks of given widths that start anew."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from worth.alphas import blind_widths

from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.search.fit import WidthGrid, fit_widths
from dmcp_deploy.search.problem import SearchProblem

LARGER = 1.35  # the budget of "uniform, larger" over the arm's
LAST = 1280  # channels of MobileNetV2's last convolution at 1.0x


def unsearched(problem: SearchProblem, arm: str, steps: int) -> dict[str, int]:
    """Returns the widths of an arm that takes no search of images, under a problem's limits.

    Args:
        problem: The search; of "uniform, larger" under the larger limits.
        arm: "uniform", "uniform, larger", "uniform, last kept" or "budget-only".
        steps: Of the alphas, where they move.
    """
    if arm == "budget-only":
        return blind_widths(problem, steps)
    if arm == "uniform, last kept":
        return _last_kept(problem)
    return problem.widths_near(problem.space.full, problem.limits)


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


def _last_kept(problem: SearchProblem) -> dict[str, int]:
    """Returns the uniform widths of all groups but the last one, which keeps its 1280 channels."""
    last = int(np.argmax(problem.space.full))
    keep = min(LAST, int(problem.grid.high[last]))
    low, high = problem.grid.low.copy(), problem.grid.high.copy()
    low[last] = high[last] = keep // problem.grid.step[last] * problem.grid.step[last]
    grid = WidthGrid(low, high, problem.grid.step)
    wanted = problem.space.full.astype(float)
    return problem.space.widths(fit_widths(problem.limits, grid, wanted))
