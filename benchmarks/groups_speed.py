"""How long the channel groups of a network take to find, against Torch-Pruning's.

    python benchmarks/groups_speed.py

A pair builds the same network twice: once this library finds its groups, as `dmcp-deploy groups`
does, and once Torch-Pruning builds its dependency graph and lists all groups. Both ways run in one
process with torch and torchvision loaded, in turn first; garbage is collected before each is
timed. The first pair, which pays for what is done once in a process, is kept apart. `build_s` is
what torchvision takes to make the network, the same for both, and `find_s` is all the rest: CPU
time on one thread, which other work on the machine does not move.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch_pruning
import torchvision
from torch import nn

from dmcp_deploy.artifact import write_artifact
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.plan import NetworkSpec

KIND = "groups-speed"
MODELS = ("mobilenet_v2", "resnet18", "resnet50")
SHAPE = (3, 224, 224)

#: (network, its name) -> how many groups were found.
Find = Callable[[nn.Module, str], int]


def main() -> None:
    """Measures the networks, writes all samples and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/groups_speed.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Torch-Pruning's, of every network
    environment = read_environment()
    rows = [{"model": model, **_measured(model, options.pairs)} for model in options.models]
    content = {
        "command": " ".join(["python", *sys.argv]),
        "threads": 1,
        "clock": "process",
        "torch_pruning": torch_pruning.__version__,
        "torchvision": torchvision.__version__,
        "environment": environment,
        "rows": rows,
    }
    write_artifact(options.out, KIND, content)
    print(report(content))


def report(content: dict[str, Any]) -> str:
    """Returns the medians of every network as a Markdown table, and the range of the pairs."""
    lines = [
        "| network | groups | ours ms | Torch-Pruning ms | ratio | with the network's building |",
        "|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        ours, theirs = ([pair[way] for pair in row["pairs"]] for way in ("ours", "torch_pruning"))
        cells = [
            row["model"],
            str(row["groups"]["ours"]),
            *(f"{_median_ms(samples):.0f}" for samples in (ours, theirs)),
            _ratios(ours, theirs, ("find_s",)),
            _ratios(ours, theirs, ("build_s", "find_s")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _measured(model: str, pairs: int) -> dict[str, Any]:
    ways: dict[str, Find] = {"ours": _ours, "torch_pruning": _torch_pruning}
    groups: dict[str, int] = {}
    samples: list[dict[str, dict[str, float]]] = []
    for number in range(pairs + 1):
        order = list(ways) if number % 2 == 0 else list(ways)[::-1]
        pair: dict[str, dict[str, float]] = {}
        for way in order:
            groups[way], pair[way] = _timed(ways[way], model)
        samples.append(pair)
    return {"groups": groups, "first_pair": samples[0], "pairs": samples[1:]}


def _timed(find: Find, model: str) -> tuple[int, dict[str, float]]:
    gc.collect()
    start = time.process_time()
    network = torchvision.models.get_model(model, weights=None)
    built = time.process_time()
    count = find(network, model)
    end = time.process_time()
    return count, {"build_s": built - start, "find_s": end - built}


def _ours(network: nn.Module, model: str) -> int:
    return len(trace_network(network, NetworkSpec(model, input_shape=SHAPE)).groups)


def _torch_pruning(network: nn.Module, model: str) -> int:
    images = torch.randn(1, *SHAPE)
    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(network.eval(), example_inputs=images)
    return len(list(graph.get_all_groups()))


def _median_ms(samples: list[dict[str, float]]) -> float:
    return 1000 * statistics.median(sample["find_s"] for sample in samples)


def _ratios(
    ours: list[dict[str, float]], theirs: list[dict[str, float]], parts: tuple[str, ...]
) -> str:
    """Returns the median of the pairs' ratios, and their range."""
    ratios = [
        sum(our[part] for part in parts) / sum(their[part] for part in parts)
        for our, their in zip(ours, theirs, strict=True)
    ]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
