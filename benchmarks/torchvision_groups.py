"""Groups, cost and a sliced 50% plan of every torchvision CNN: makes docs/models.md.

    python benchmarks/torchvision_groups.py [MODEL ...]

For each network: its channel groups, the uniform plan of half its multiply-adds with widths that
are multiples of 8, and the largest difference between the supernet at that plan's widths and the
sliced network, on one random image, with random weights and batch-norm statistics. Takes some
minutes and, for the largest network, about 10 GB of memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision import models

from dmcp_deploy import __version__
from dmcp_deploy.artifact import write_text
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.models import build_network, model_names
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search.costs.asked import flops_limits
from dmcp_deploy.search.fit import fit_widths, width_grid
from dmcp_deploy.search.space import search_space
from dmcp_deploy.units import format_macs

ALIGN = 8
SIDES = {"inception_v3": 299}

PAGE = """# What was tried on every torchvision CNN

Made by `python benchmarks/torchvision_groups.py` (dmcp-deploy {version}, torch {torch}, \
torchvision {torchvision}); raw figures in
`benchmarks/results/torchvision_groups.json`. {count} networks with random weights and \
batch-norm statistics, on one CPU thread; nothing was trained.

- **groups**: channel groups, the network's input and logits excluded; **prunable**: those that \
can be narrowed ([how they are found](groups.md)).
- **MACs**: multiply-adds of convolution and linear layers for one image of 224 px (299 px for \
inception_v3).
- **50% plan**: the uniform plan of half the MACs, widths multiples of {align}; **share**: its \
part of the full network's MACs.
- **difference**: the supernet at the plan's widths against the sliced network, one random image: \
the largest difference between two logits over the largest logit. 0: every logit is equal, bit \
for bit.

{summary}

| network | groups | prunable | MACs | parameters | 50% plan | share | plan's parameters | \
difference |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
{rows}

{pinned}
"""


@dataclass(frozen=True)
class Row:
    """What was found for one network."""

    model: str
    input_side: int
    groups: int
    prunable: int
    pinned: dict[str, str]
    opaque: list[str]
    macs: int
    params: int
    plan_macs: int
    plan_params: int
    relative_difference: float
    published_gmacs: float | None


def main() -> None:
    """Tries the networks and writes the raw figures and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="default: all of them")
    parser.add_argument("--out", type=Path, default=Path("docs/models.md"))
    parser.add_argument(
        "--results", type=Path, default=Path("benchmarks/results/torchvision_groups.json")
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [_timed_row(name) for name in options.models or model_names()]
    versions = {
        "version": __version__,
        "torch": torch.__version__.partition("+")[0],
        "torchvision": torchvision.__version__.partition("+")[0],
    }
    raw = {**versions, "align": ALIGN, "rows": [asdict(row) for row in rows]}
    write_text(options.results, json.dumps(raw, indent=1) + "\n")
    write_text(options.out, _page(rows, versions))


def _timed_row(name: str) -> Row:
    start = time.perf_counter()
    row = _row(name)
    gc.collect()
    seconds = time.perf_counter() - start
    print(f"{name}: {row.prunable} of {row.groups} groups, {seconds:.1f} s", flush=True)
    return row


def _row(name: str) -> Row:
    side = SIDES.get(name, 224)
    network = build_network(NetworkSpec(name, input_shape=(3, side, side)))
    cost, space = NetworkCost(network), search_space(network)
    grid = width_grid(space, ALIGN)
    units = fit_widths(flops_limits("50%", cost, space), grid, space.full.astype(np.float64))
    widths = space.widths(units)
    return Row(
        model=name,
        input_side=side,
        groups=len(network.groups),
        prunable=len(network.prunable),
        pinned={group.name: group.reason for group in network.groups if group.reason},
        opaque=sorted(network.opaque),
        macs=cost.full_macs,
        params=cost.params({}),
        plan_macs=cost.macs_at(widths),
        plan_params=cost.params(widths),
        relative_difference=_difference(network, widths),
        published_gmacs=_published_gmacs(name, side),
    )


def _published_gmacs(name: str, side: int) -> float | None:
    """Returns what torchvision says of its weights for pictures of this size, if it does."""
    for weights in models.get_model_weights(name):
        if weights.transforms.keywords["crop_size"] == side:
            return float(weights.meta["_ops"])
    return None


def _difference(network: Network, widths: dict[str, int]) -> float:
    generator = torch.Generator().manual_seed(0)
    _randomise_norms(network.model.eval(), generator)
    image = torch.randn(1, *network.spec.input_shape, generator=generator)
    with torch.no_grad():
        logits = Supernet(network)(image, widths)
        sliced = slice_network(network, widths)(image)
    if not logits.isfinite().all():
        raise ArithmeticError(f"{network.spec.model}: the logits overflow")
    return float((logits - sliced).abs().max() / logits.abs().max())


def _randomise_norms(model: nn.Module, generator: torch.Generator) -> None:
    """Makes the batch norms differ from channel to channel: fresh ones are all alike."""

    def fill(tensor: Tensor, low: float, high: float) -> None:
        with torch.no_grad():
            tensor.uniform_(low, high, generator=generator)

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            fill(module.running_mean, -0.1, 0.1)
            fill(module.running_var, 0.5, 1.5)
            fill(module.weight, 0.5, 1.5)
            fill(module.bias, -0.1, 0.1)


def _page(rows: list[Row], versions: dict[str, str]) -> str:
    return PAGE.format(
        **versions,
        count=len(rows),
        align=ALIGN,
        summary=_summary(rows),
        rows="\n".join(map(_line, rows)),
        pinned=_pinned(rows),
    )


def _summary(rows: list[Row]) -> str:
    shares = [row.plan_macs / row.macs for row in rows]
    groups, prunable = sum(r.groups for r in rows), sum(r.prunable for r in rows)
    published = [row for row in rows if row.published_gmacs is not None]
    agree = sum(round(row.macs / 1e9, 3) == row.published_gmacs for row in published)
    return (
        f"In all {groups} groups, {prunable} of them prunable. The plans take"
        f" {min(shares):.1%} to {max(shares):.1%} of the MACs; the largest difference is"
        f" {max(row.relative_difference for row in rows):.1g}. torchvision publishes the"
        f" multiply-adds of {len(published)} of these networks at this size, in units of 0.001G:"
        f" {agree} agree."
    )


def _line(row: Row) -> str:
    cells = (
        row.model,
        row.groups,
        row.prunable,
        format_macs(row.macs),
        f"{row.params / 1e6:.2f}M",
        format_macs(row.plan_macs),
        f"{row.plan_macs / row.macs:.1%}",
        f"{row.plan_params / 1e6:.2f}M",
        f"{row.relative_difference:.0e}" if row.relative_difference else "0",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _pinned(rows: list[Row]) -> str:
    lines = [
        f"- {row.model}: {name}, because {reason}."
        for row in rows
        for name, reason in row.pinned.items()
    ]
    if not lines:
        return "No group is kept whole."
    return "## Groups kept whole\n\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
