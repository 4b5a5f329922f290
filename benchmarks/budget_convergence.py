"""Where the expected MACs end under the budget loss alone, for every budget of the paper's table.

    python benchmarks/budget_convergence.py --out benchmarks/results/budget_convergence.json

For each budget the architecture parameters move for some steps by the budget loss only, once as
the package moves them and once without its bound on a step. A search has converged if the expected
MACs end within 0.95 to 1.00 of the budget.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch

from dmcp_deploy.artifact import write_text
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.models import build_network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search.architecture import Architecture
from dmcp_deploy.search.budget_loss import BAND, budget_loss
from dmcp_deploy.search.costs.asked import flops_limits
from dmcp_deploy.search.space import search_space

CASES = {
    ("mobilenet_v2", 1.5): ("300M", "211M", "97M", "87M", "59M", "43M"),
    ("resnet18", 1.0): ("1.04G",),
    ("resnet50", 1.0): ("2.8G", "2.2G", "1.1G", "278M"),
}
STEPS = (60, 120, 600)


class _Unbounded(Architecture):
    """The same parameters, moved as far as the optimiser says."""

    def _shorten(self, before: torch.Tensor, share: float) -> None:
        return


def main() -> None:
    """Writes E[MACs] / budget at the end of every search, bounded and not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/budget_convergence.json")
    )
    out = parser.parse_args().out
    rows = [
        {"model": model, "width_mult": width, "flops": flops, "steps": steps, **ends}
        for (model, width), budgets in CASES.items()
        for flops, steps, ends in _ends(NetworkSpec(model, width), budgets)
    ]
    write_text(out, json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")
    for name in ("bounded", "unbounded"):
        inside = sum(BAND[0] <= row[name] <= BAND[1] for row in rows)
        print(f"{name}: {inside} of {len(rows)} inside, lowest {min(r[name] for r in rows)}")


def _ends(spec: NetworkSpec, budgets: tuple[str, ...]) -> list[tuple[str, int, dict[str, float]]]:
    network = build_network(spec)
    cost, space = NetworkCost(network), search_space(network)
    found = []
    for flops in budgets:
        limits = flops_limits(flops, cost, space)
        for steps in STEPS:
            ends = {}
            for name, kind in (("bounded", Architecture), ("unbounded", _Unbounded)):
                architecture = kind(space, limits, "exp", torch.device("cpu"))
                ends[name] = round(_converge(architecture, steps), 4)
            found.append((flops, steps, ends))
    return found


def _converge(architecture: Architecture, steps: int) -> float:
    for step in range(steps):
        lr = 0.5 * (1 + math.cos(math.pi * step / steps)) / 2
        architecture.move(0.1 * budget_loss(architecture.expected_share()), lr)
    return float(architecture.expected_share().detach())


if __name__ == "__main__":
    main()
