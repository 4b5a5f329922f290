"""What the alphas' steps come to without a network behind them, for the paper's budgets.

    python benchmarks/budget_convergence.py --out benchmarks/results/budget_convergence.json

Part one: for each budget and transition the alphas move for some steps by the budget loss only,
once as the package moves them and once in each other way of `WAYS`. A search has converged if the
expected MACs end within 0.95 to 1.00 of the budget.

Part two: they follow a made-up task as well, the mean over groups of worth * sqrt(full / E[width]),
with worths that differ by group and noise in each step. Told is by how much the plan that is read
from the expected widths has a lower task loss than uniform widths at the same budget.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
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
from dmcp_deploy.search.budget_loss import BAND, budget_loss, largest_move
from dmcp_deploy.search.costs.asked import flops_limits
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.fit import fit_widths, width_grid
from dmcp_deploy.search.space import SearchSpace, search_space
from dmcp_deploy.training.recipe import TRANSITIONS

CASES = {
    ("mobilenet_v2", 1.5): ("300M", "211M", "97M", "87M", "59M", "43M"),
    ("resnet18", 1.0): ("1.04G",),
    ("resnet50", 1.0): ("2.8G", "2.2G", "1.1G", "278M"),
}
STEPS = (60, 120, 600)
TASK_STEPS, TASK_SEEDS = 600, 3
LR, WEIGHT = 0.5, 0.1  # of every recipe

Loss = Callable[[Architecture], Tensor]
