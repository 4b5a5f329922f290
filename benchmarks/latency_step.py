"""What an architecture step costs under a budget in milliseconds over one in multiply-adds.

    OMP_NUM_THREADS=1 python benchmarks/latency_step.py --models mobilenet_v2,resnet50,densenet121

Both searches are of one network. In every round each of them does a step, in turns the first, so
that a machine that slows down slows both. Two things are timed: the expected cost and its gradient
alone, and the whole architecture step with the gated network forward and back. The coefficients
of the latency model are made up, and every rounding of tables occurs: time depends on no more.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from step_cost import CLASSES, make_batch, make_problem

from dmcp_deploy.artifact import write_artifact
from dmcp_deploy.bench.tables.fit import ROUNDINGS
from dmcp_deploy.bench.tables.model import LatencyModel, LayerTimes
from dmcp_deploy.bench.tables.probes import ProbedGroup
from dmcp_deploy.data.types import Batch
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.network.graph import Network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.run.probes import layer_forms
from dmcp_deploy.search.costs.latency import LatencyCost
from dmcp_deploy.search.costs.limits import Limit, Limits
from dmcp_deploy.search.costs.macs import MacsCost
from dmcp_deploy.search.costs.protocol import Cost
from dmcp_deploy.search.dmcp import DmcpTask
from dmcp_deploy.search.problem import SearchProblem

KIND = "latency-step"
#: Steps that a search is said to have; the second half of them is stage 2.
STEPS = 1_000_000
SHARE, RESAMPLES = 0.6, 2000
_FACTOR = 10  # rounds of what takes a fraction of a millisecond over those of whole steps
COSTS = ("multiply-adds", "milliseconds")

Step = Callable[[int], object]


def main() -> None:
    """Measures all networks, writes the samples and prints a table of the ratios."""
    options = _options()
    torch.set_num_threads(options.threads)
    runs = [_measured(model, options) for model in options.models.split(",")]
    environment = read_environment(devices=torch.cuda.is_available())
    write_artifact(options.out, KIND, {"runs": runs, "environment": environment})
    print(report(runs))


def report(runs: Sequence[dict[str, Any]]) -> str:
    """Returns the runs' medians in milliseconds, and ratios with 95% intervals, in Markdown."""
    lines = [
        "| network | device | expected cost: multiply-adds | milliseconds | ratio"
        " | architecture step: multiply-adds | milliseconds | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        name = f"{run['model']}, {run['batch']} of {run['side']} px"
        cells = [name, run["device"]]
        for kind in ("expected", "step"):
            macs, latency = (run["seconds"][kind][cost] for cost in COSTS)
            cells += [f"{1000 * statistics.median(one):.3g}" for one in (macs, latency)]
            cells.append("{:.3f} ({:.3f} to {:.3f})".format(*ratio(macs, latency)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio(below: Sequence[float], above: Sequence[float]) -> tuple[float, float, float]:
    """Returns the median ratio of pairs, and its 95% interval by resampling them."""
    ratios = [b / a for a, b in zip(below, above, strict=True)]
    random = Random(0)
    drawn = sorted(
        statistics.median(random.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES)
    )
    cut = RESAMPLES // 40
    return statistics.median(ratios), drawn[cut], drawn[-1 - cut]


def _options() -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="mobilenet_v2,resnet50,densenet121")
    parser.add_argument("--batch", type=int, default=64 if cuda else 8)
    parser.add_argument("--side", type=int, default=224 if cuda else 96)
    parser.add_argument("--rounds", type=int, default=40 if cuda else 15)
    parser.add_argument("--warm-ups", type=int, default=10 if cuda else 2)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/latency_step.json"))
    return parser.parse_args()


def _measured(model: str, options: argparse.Namespace) -> dict[str, Any]:
    spec = NetworkSpec(model, 1.0, CLASSES, (3, options.side, options.side))
    problem = make_problem(spec, options, 8)
    batch = problem.precision.move(make_batch(options))
    tasks = {cost.name: _task(problem, cost) for cost in _costs(problem)}
    steps: dict[str, dict[str, Step]] = {
        "expected": {name: _expected_step(task) for name, task in tasks.items()},
        "step": {name: _architecture_step(task, batch) for name, task in tasks.items()},
    }
    device = problem.precision.device
    cuda = device.type == "cuda"
    rounds = {"expected": _FACTOR * options.rounds, "step": options.rounds}
    seconds = {
        kind: _interleaved(both, rounds[kind], options.warm_ups, cuda)
        for kind, both in steps.items()
    }
    return {
        "model": model,
        "batch": options.batch,
        "side": options.side,
        "threads": options.threads,
        "bf16": problem.precision.bf16,
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "torch": torch.__version__,
        "seconds": seconds,
    }


def _interleaved(
    steps: dict[str, Step], rounds: int, warm_ups: int, cuda: bool
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(-warm_ups, rounds):
        order = list(steps) if number % 2 else list(reversed(steps))
        for name in order:
            start = _now(cuda)
            steps[name](number + warm_ups)
            if number >= 0:
                seconds[name].append(_now(cuda) - start)
    return seconds


def _now(cuda: bool) -> float:
    """Returns the time once all is done; on a CPU that of the process, which others do not move."""
    if not cuda:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _costs(problem: SearchProblem) -> list[Cost]:
    latency = LatencyCost(_model(problem.network), problem.space)
    return [MacsCost(problem.accounting, problem.space), latency]


def _model(network: Network) -> LatencyModel:
    forms = layer_forms(network)
    rounding = np.resize(ROUNDINGS, (len(forms), 2))
    grouped = np.array([network.layers[name].grouped for name in forms])
    coefficients = np.where(grouped[:, None], [1.0, 0.0, 1.0, 0.0], np.ones(4))
    layers = LayerTimes(tuple(forms), coefficients, rounding)
    groups = {group.name: ProbedGroup(group.size, group.unit) for group in network.prunable}
    return LatencyModel(layers, 1.0, 1.0, 0.0, tuple(forms.values()), groups, align=8)


def _task(problem: SearchProblem, cost: Cost) -> DmcpTask:
    limit = Limit(cost, SHARE * cost.at(problem.space.full), f"{SHARE:%}")
    return DmcpTask(replace(problem, limits=Limits((limit,))), STEPS)


def _expected_step(task: DmcpTask) -> Step:
    architecture = task.architecture
    return lambda _: torch.autograd.grad(architecture.expected_share(), [architecture.alphas])


def _architecture_step(task: DmcpTask, batch: Batch) -> Step:
    return lambda number: task._architecture_step(STEPS // 2 + 1 + number, batch)


if __name__ == "__main__":
    main()
