"""What latency tables predict of random plans, against what these plans' networks take.

    python benchmarks/table_prediction.py --out benchmarks/results/table_prediction.json

Builds a table of each network in each runtime, then draws plans of other widths than the probes'
for budgets from 30% to 80%, and measures them in passes, together with the full network. Run it on
a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from dmcp_deploy.artifact import write_text
from dmcp_deploy.bench.tables.predict import Prediction
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.machine.affinity import pinned
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import ChannelPlan, Keep, NetworkSpec
from dmcp_deploy.progress import TerminalProgress
from dmcp_deploy.run.tables import table_build, table_predict, table_probes
from dmcp_deploy.runtimes.sampler import Clock, make_sampler
from dmcp_deploy.runtimes.session import open_session
from dmcp_deploy.search.costs.asked import flops_limits
from dmcp_deploy.search.fit import fit_widths, width_grid
from dmcp_deploy.search.space import search_space

SIDE, ALIGN, THREADS = 224, 8, 1
SHARES = (0.3, 0.8)
#: Of the plans; the probes have another.
SEED = 7
#: The percentile of samples that tables are made of.
LOW = 0.1
#: Calls of a network in a pass.
WARM_UPS, CALLS = 3, 40


@dataclass(frozen=True)
class Planned:
    """A plan with its network's file."""

    plan: ChannelPlan
    path: Path


def main() -> None:
    """Builds the tables, measures the plans, writes both and prints the errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/table_prediction.json")
    )
    parser.add_argument("--models", default="mobilenet_v2,resnet18")
    parser.add_argument("--runtimes", default="onnxruntime,openvino")
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--plans", type=int, default=12)
    parser.add_argument("--passes", type=int, default=5, help="Times that a plan is measured.")
    parser.add_argument("--work", type=Path, help="Keep networks and tables here, and go on there.")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        found = [
            one for model in options.models.split(",") for one in _tables(model, work, options)
        ]
    content = {"environment": read_environment(), "threads": THREADS, "input": SIDE}
    write_text(options.out, json.dumps({**content, "tables": found}) + "\n")
    print(report(found))


def report(tables: list[dict[str, Any]]) -> str:
    """Returns the errors as a Markdown table; those of ratios are free of the machine's drift."""
    lines = [
        "| network | runtime | error: median | worst | of the 10th percentile: median | worst"
        " | of the ratio to the full network: median | worst | table's own estimate (90%) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for table in tables:
        cells = [table["model"], table["runtime"]]
        full = table["full_samples_ms"]
        for errors in zip(*(_errors(plan, full) for plan in table["plans"]), strict=True):
            cells += [f"{statistics.median(errors):.1%}", f"{max(errors):.1%}"]
        lines.append(f"| {' | '.join([*cells, format(table['error_share'], '.1%')])} |")
    return "\n".join(lines)


def _errors(plan: dict[str, Any], full: list[list[float]]) -> tuple[float, float, float]:
    """Returns relative errors: of the median, of the 10th percentile, of the ratio."""
    own = plan["samples_ms"]
    together = [ms for some in own for ms in some]
    ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(own, full, strict=True)]
    measured = (
        (plan["predicted_ms"], statistics.median(together)),
        (plan["undisturbed_ms"], float(np.quantile(together, LOW))),
        (plan["predicted_ratio"], statistics.median(ratios)),
    )
    middle, low, ratio = (abs(predicted / found - 1) for predicted, found in measured)
    return middle, low, ratio


def _tables(model: str, work: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    compute = Compute(progress=TerminalProgress())
    probes = work / f"{model}-probes"
    table_probes(model, probes, count=options.probes, align=ALIGN, compute=compute)
    plans = _plans(model, work / f"{model}-plans", options.plans)
    return [
        _measure(model, runtime, probes, plans, work, options)
        for runtime in options.runtimes.split(",")
    ]


def _plans(model: str, folder: Path, count: int) -> list[Planned]:
    """Returns random plans of rising budgets, each with its network as an ONNX file."""
    network = build_network(NetworkSpec(model, 1.0, 1000, (3, SIDE, SIDE)))
    space, cost = search_space(network), NetworkCost(network)
    grid, generator = width_grid(space, ALIGN), torch.Generator().manual_seed(SEED)
    planned = []
    for number, share in enumerate(np.linspace(*SHARES, count)):
        wanted = space.random_units(generator).astype(float)
        budget = int(share * cost.full_macs)
        limits = flops_limits(str(budget), cost, space)
        widths = space.widths(fit_widths(limits, grid, wanted))
        groups = {g.name: Keep(g.size, widths.get(g.name, g.size)) for g in network.groups}
        plan = ChannelPlan(
            network=network.spec,
            groups=groups,
            macs=cost.macs_at(widths),
            full_macs=cost.full_macs,
            params=cost.params(widths),
            budget_macs=budget,
            method="random",
            align=ALIGN,
            seed=SEED,
        )
        path = folder / f"plan{number:02d}.onnx"
        if not path.exists():
            export_onnx(slice_network(network, widths).eval(), path, input_shape=(3, SIDE, SIDE))
        planned.append(Planned(plan, path))
    return planned


def _measure(
    model: str,
    runtime: str,
    probes: Path,
    plans: list[Planned],
    work: Path,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Returns the plans' predicted and measured latencies in one runtime."""
    started, compute = time.monotonic(), Compute(progress=TerminalProgress())
    table = table_build(
        probes, work / f"{model}-{runtime}.json", runtime=runtime, threads=THREADS, compute=compute
    )
    built_s = time.monotonic() - started
    full = probes / "full.onnx"
    samples = _interleaved([full, *(item.path for item in plans)], runtime, options.passes)
    (whole,) = table_predict(table, full)
    return {
        "model": model,
        "runtime": runtime,
        "ran_by": table.ran_by,
        "probes": len(table.widths),
        "table_s": round(built_s, 1),
        "error_share": table.error_share,
        "full_samples_ms": samples[full],
        "plans": [_plan_row(table, whole, item, samples[item.path]) for item in plans],
    }


def _plan_row(
    table: LatencyTable, whole: Prediction, item: Planned, samples_ms: list[list[float]]
) -> dict[str, Any]:
    saved = item.path.with_suffix(".json")
    item.plan.save(saved)
    (predicted,) = table_predict(table, saved)
    return {
        "plan": item.path.stem,
        "macs": item.plan.macs,
        "full_macs": item.plan.full_macs,
        "predicted_ms": predicted.latency_ms,
        "undisturbed_ms": predicted.undisturbed_ms,
        "error_ms": predicted.error_ms,
        "predicted_ratio": predicted.latency_ms / whole.latency_ms,
        "samples_ms": samples_ms,
    }


def _interleaved(files: list[Path], runtime: str, passes: int) -> dict[Path, list[list[float]]]:
    """Returns the samples of each file in each pass over all, in an order of its own.

    Within a pass a network runs back to back, as it does on a device that runs no other: calls of
    several in turn would find one another's weights in the caches.
    """
    images = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE), dtype=np.float32)
    samples: dict[Path, list[list[float]]] = {path: [] for path in files}
    with pinned(THREADS):
        for number in range(passes):
            order = list(files)
            Random(number).shuffle(order)
            for path in order:
                with open_session(path, runtime, THREADS) as session:
                    sampler = make_sampler(session, images, Clock())
                    found = [round(sampler.sample_ms(), 4) for _ in range(WARM_UPS + CALLS)]
                samples[path].append(found[WARM_UPS:])
    return samples


if __name__ == "__main__":
    main()
