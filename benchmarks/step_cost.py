"""What a step of the search costs over a plain training step, on the device at hand.

    OMP_NUM_THREADS=1 python benchmarks/step_cost.py --model mobilenet_v2 --width-mult 1.5

Every round does one step of each kind, one after the other, so that a machine that slows down
slows them all. Kinds: the plain step of the full network, a sandwich step of stage 1, an
architecture step, and both as the authors' release does them (see release_way.py). The ideal of a
sandwich step is the multiply-adds of its networks over those of the full one. Peak memory is that
of fresh processes on a CPU. Runs of several networks and labels gather in one file.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
from release_way import ReleaseWay

from dmcp_deploy.artifact import read_artifact, write_artifact
from dmcp_deploy.data.types import Batch
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.models import build_network
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.search.costs.asked import flops_limits
from dmcp_deploy.search.dmcp import DmcpTask
from dmcp_deploy.search.fit import width_grid
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.space import search_space
from dmcp_deploy.training.dense import DenseTask
from dmcp_deploy.training.precision import choose_precision
from dmcp_deploy.training.recipe import RECIPES

KIND = "step-cost"
#: Steps that a search is said to have; the second half of them is stage 2.
STEPS = 1_000_000
#: Kind of step -> what the table says of it.
KINDS = {
    "plain": "plain step of the full network",
    "stage1": "sandwich step",
    "architecture": "architecture step",
    "release_stage1": "sandwich step, the release's way",
    "release_architecture": "architecture step, the release's way",
}
CLASSES, SHARE, RESAMPLES = 1000, 0.3, 2000

Step = Callable[[int], None]


def main() -> None:
    """Measures one network, adds the run to the file and prints the file's table."""
    options = _options()
    if options.memory_of:
        print(_grown_bytes(options))
        return
    run = {**_asked(options), **_measured(options), "memory": _memory(options)}
    others = read_artifact(options.out, KIND)["runs"] if options.out.exists() else []
    runs = [other for other in others if _key(other) != _key(run)] + [run]
    write_artifact(options.out, KIND, {"runs": sorted(runs, key=_key)})
    print(report(sorted(runs, key=_key)))


def report(runs: list[dict[str, Any]]) -> str:
    """Returns what the runs' samples say as a Markdown table."""
    lines = [
        "| network | device | ours | sandwich / plain | ideal | over ideal | architecture / plain"
        " | images/s | the release's way | ratio | memory: sandwich | architecture |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        derived = figures(run)
        name = f"{run['model']} {run['width_mult']:g}x, {run['batch']} of {run['side']} px"
        way = f"{run['label']}, {'bf16' if run['bf16'] else 'fp32'}, widths of {run['align']}"
        cells = [name, run["device"], way, *map(_cell, derived.values())]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figures(run: Mapping[str, Any]) -> dict[str, list[float]]:
    """Returns the ratios of a run: medians, with a 95% interval where rounds were resampled."""
    seconds, ideal = run["seconds"], run["ideal"]
    memory = {kind: statistics.median(grown) for kind, grown in run["memory"].items()}

    def over_ideal(rounds: list[int]) -> float:
        excess = [seconds["stage1"][r] / ideal[r] for r in rounds]
        return statistics.median(excess) / _median(seconds["plain"], rounds)

    def ratio(above: str) -> Callable[[list[int]], float]:
        return lambda rounds: _median(seconds[above], rounds) / _median(seconds["plain"], rounds)

    def rate(prefix: str) -> Callable[[list[int]], float]:
        # Half of the steps are of stage 1, half of stage 2, which have an architecture step more.
        weights, alphas = seconds[f"{prefix}stage1"], seconds[f"{prefix}architecture"]
        return lambda rounds: (
            run["batch"] / (_median(weights, rounds) + _median(alphas, rounds) / 2)
        )

    return {
        "stage1": _resampled(ratio("stage1"), ideal),
        "ideal": [statistics.median(ideal)],
        "over_ideal": _resampled(over_ideal, ideal),
        "architecture": _resampled(ratio("architecture"), ideal),
        "images_per_s": _resampled(rate(""), ideal)[:1],
        "release_images_per_s": _resampled(rate("release_"), ideal)[:1],
        "throughput": _resampled(lambda rounds: rate("")(rounds) / rate("release_")(rounds), ideal),
        "memory_stage1": [memory["stage1"] / memory["plain"]],
        "memory_architecture": [memory["architecture"] / memory["plain"]],
    }


def _options() -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--width-mult", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=64 if cuda else 16)
    parser.add_argument("--side", type=int, default=224 if cuda else 160)
    parser.add_argument("--rounds", type=int, default=30 if cuda else 10)
    parser.add_argument("--warm-ups", type=int, default=5 if cuda else 2)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="Of our steps: auto, fp32 or bf16.")
    parser.add_argument("--align", type=int, default=8, help="Of our steps; the release has none.")
    parser.add_argument("--label", default="now", help="Which state of the code this is.")
    parser.add_argument("--processes", type=int, default=3, help="For each peak of memory.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/step_cost.json"))
    parser.add_argument("--memory-of", choices=KINDS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    precision = choose_precision(options.device, options.precision)
    cuda = precision.device.type == "cuda"
    names = ("label", "model", "width_mult", "batch", "side", "threads", "warm_ups", "align")
    return {
        **{name: getattr(options, name) for name in names},
        "device": torch.cuda.get_device_name(precision.device) if cuda else "cpu",
        "bf16": precision.bf16,
        "clock": "wall" if cuda or options.threads > 1 else "process",
        "command": " ".join(["python", *sys.argv]),
        "torch": torch.__version__,
        "environment": read_environment(devices=cuda),
    }


def _key(run: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("device", "model", "width_mult", "batch", "side", "bf16", "align", "label")
    return tuple(run[name] for name in names)


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the seconds of every step by kind, and the ideal of every round's sandwich."""
    steps = {kind: make_step(kind, options) for kind in KINDS}
    networks = _narrow(make_problem(_spec(options), options, options.align))
    clock = _clock(options)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(-options.warm_ups, options.rounds):
        for kind, step in steps.items():
            start = clock()
            step(number + options.warm_ups)
            if number >= 0:
                seconds[kind].append(clock() - start)
    rounds = range(options.warm_ups, options.warm_ups + options.rounds)
    return {"seconds": seconds, "ideal": [networks(number)[1] for number in rounds]}


def make_step(kind: str, options: argparse.Namespace) -> Step:
    """Returns what does one step of a kind, on a network of its own."""
    torch.set_num_threads(options.threads)
    _keep_freed_memory()
    align = 1 if kind.startswith("release") else options.align
    problem = make_problem(_spec(options), options, align)
    batch = problem.precision.move(make_batch(options))
    if kind == "plain":
        dense = DenseTask(problem.network.model, problem.recipe, STEPS, problem.precision)
        return lambda number: _drop(dense.step(number, batch))
    if kind.startswith("release"):
        release = ReleaseWay(problem)
        images = batch.images.contiguous(memory_format=torch.contiguous_format)
        plain = Batch(images, batch.labels)
        if kind == "release_architecture":
            return lambda _: release.architecture_step(plain)
        networks = _narrow(problem)
        return lambda number: release.weight_step(plain, networks(number)[0])
    task = DmcpTask(problem, STEPS)
    if kind == "stage1":
        return lambda number: _drop(task.step(number, batch))
    return lambda number: _drop(task._architecture_step(STEPS // 2 + 1 + number, batch))


_KEPT = contextlib.ExitStack()  # to the end of the process


def _keep_freed_memory() -> None:
    """Does what a run does, if the code that is measured has it."""
    if importlib.util.find_spec("dmcp_deploy.training.allocator"):
        allocator = importlib.import_module("dmcp_deploy.training.allocator")
        _KEPT.enter_context(allocator.freed_memory_kept())


def _drop(figures: Mapping[str, float]) -> None:
    """Reads figures as a loop does, so that a GPU has done the step."""
    assert all(float(value) == float(value) for value in figures.values())


def _narrow(problem: SearchProblem) -> Callable[[int], tuple[list[dict[str, int]], float]]:
    """Returns what gives a round's narrow networks, and the MACs of all in full networks."""
    from dmcp_deploy.search.slimmable import SharedWeights

    weights = SharedWeights(problem, STEPS)

    def networks(number: int) -> tuple[list[dict[str, int]], float]:
        units = weights.networks(number)
        macs = sum(problem.accounting.macs(one) for one in units)
        return [problem.space.widths(one) for one in units], 1 + macs / problem.accounting.full_macs

    return networks


def _spec(options: argparse.Namespace) -> NetworkSpec:
    shape = (3, options.side, options.side)
    return NetworkSpec(options.model, options.width_mult, CLASSES, shape)


def make_problem(spec: NetworkSpec, options: argparse.Namespace, align: int) -> SearchProblem:
    """Returns a search of a network that no step of needs data, on the device of the options."""
    network = build_network(spec)
    cost, space = NetworkCost(network), search_space(network)
    recipe = "imagenet-resnet" if "resnet" in spec.model else "imagenet-mobilenet"
    return SearchProblem(
        network=network,
        accounting=cost,
        space=space,
        grid=width_grid(space, align),
        limits=flops_limits(f"{SHARE:%}", cost, space),
        data=None,
        recipe=RECIPES[recipe],
        request=RunRequest(
            network=spec, budget=f"{SHARE:%}", data_digest="", weights_digest=None, recipe={}
        ),
        compute=Compute(),
        precision=choose_precision(options.device, options.precision),
        folder=Path(),
    )


def make_batch(options: argparse.Namespace) -> Batch:
    """Returns noise of the options' size and number, with labels."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, 3, options.side, options.side)
    labels = torch.randint(CLASSES, (options.batch,), generator=generator)
    return Batch(torch.randn(shape, generator=generator), labels)


def _clock(options: argparse.Namespace) -> Callable[[], float]:
    """Returns a clock; on one CPU thread that of the process, which others do not move."""
    name = _asked(options)["clock"]
    if name == "process":
        return time.process_time
    if choose_precision(options.device).device.type != "cuda":
        return time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised


def _memory(options: argparse.Namespace) -> dict[str, list[int]]:
    """Returns for every kind by how many bytes its steps raise the memory of a fresh process."""
    grown: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for _ in range(options.processes):
        for kind in KINDS:
            command = [sys.executable, *sys.argv, "--memory-of", kind]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            grown[kind].append(int(found.stdout.split()[-1]))
    return grown


def _grown_bytes(options: argparse.Namespace) -> int:
    step = make_step(options.memory_of, options)
    cuda = choose_precision(options.device).device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is held
    before = _status_bytes("VmRSS")
    for number in range(2):
        step(number)
    return torch.cuda.max_memory_allocated() if cuda else _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status does not tell {name}.")


def _median(samples: list[float], rounds: list[int]) -> float:
    return statistics.median(samples[r] for r in rounds)


def _resampled(value: Callable[[list[int]], float], samples: list[float]) -> list[float]:
    """Returns a figure over all rounds, and its 95% interval by resampling rounds."""
    random, rounds = Random(0), list(range(len(samples)))
    found = sorted(value(random.choices(rounds, k=len(rounds))) for _ in range(RESAMPLES))
    cut = RESAMPLES // 40
    return [value(rounds), found[cut], found[-1 - cut]]


def _cell(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})"


if __name__ == "__main__":
    main()
