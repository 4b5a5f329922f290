"""Latency of pruned networks against their FLOPs: makes docs/throughput.md.

    python benchmarks/throughput.py [--runs DIR] [--seconds S]

MobileNetV2 at 211M and ResNet-50 at 2.2G multiply-adds. For each, one short DMCP search on the
images of elpv gives the widths that every group is expected to keep; from them three plans are
read, with widths of any number, of multiples of 8 and of 16. They are measured beside the original
and the uniform plan of the same budget, all interleaved, in ONNX Runtime and in OpenVINO, in FP32.
Weights are those of the search's start: a latency does not depend on them.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from pathlib import Path

import numpy as np

from dmcp_deploy.artifact import write_text
from dmcp_deploy.bench.layers.compare import compare_layer
from dmcp_deploy.bench.layers.measure import measure_layers
from dmcp_deploy.bench.layers.record import LayersRecord
from dmcp_deploy.bench.layers.roofline import bound_ms
from dmcp_deploy.bench.measure import measure_artifacts
from dmcp_deploy.bench.record import BenchRecord, compare
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.progress import TerminalProgress
from dmcp_deploy.run import api
from dmcp_deploy.search.costs.asked import flops_limits
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.fit import fit_widths, width_grid
from dmcp_deploy.search.space import SearchSpace, search_space
from dmcp_deploy.units import format_macs

RUNTIMES = ("onnxruntime", "openvino")
ALIGNMENTS = (1, 8, 16)
BATCHES = (1, 8)
SIDE, TRAIN_SIZE = 224, 64

PAGE = """# Throughput against the FLOPs budget

Made by `python benchmarks/throughput.py`; every sample is in `benchmarks/results/throughput/`.
Measured on {cpu}, {threads} thread, load {load}, {libraries}. FP32, {side} px.

- **DMCP, any width**: the widths that one short search expects to keep, fitted to the budget
  without alignment; **multiples of 8** and **of 16**: the same wish on aligned widths. The search
  took {steps} steps on small images ({train_size} px): it shows what a plan's shape costs, not
  what it is worth in accuracy.
- **uniform**: every group scaled alike to the same budget, multiples of 8.
- **latency ratio**: to the original, median over interleaved rounds, with its 95% interval;
  **efficiency**: FLOPs ratio / latency ratio, 1 where time fell as much as the multiply-adds.
- **bound**: the time that the convolution and linear layers need at least, each by the larger of
  its multiply-adds and its bytes, at what this runtime reaches on this machine (the roofline).
- **lagging layers**: those whose time fell less than their multiply-adds, with the likeliest
  reasons (`dmcp-deploy bench runs/r50 --layers` shows each).

{tables}
"""


@dataclass(frozen=True)
class Case:
    """A network, its budget, and the steps of its search."""

    model: str
    flops: str
    title: str
    steps: int


CASES = (
    Case("mobilenet_v2", "211M", "MobileNetV2 at 211M", 120),
    Case("resnet50", "2.2G", "ResNet-50 at 2.2G", 40),
)


def main() -> None:
    """Searches, exports and measures what is not there yet, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/throughput"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/throughput"))
    parser.add_argument("--page", type=Path, default=Path("docs/throughput.md"))
    parser.add_argument("--seconds", type=float, default=20.0, help="For each batch size.")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    records: dict[tuple[str, str], tuple[BenchRecord, LayersRecord]] = {}
    for case in CASES:
        files = _networks(case, options.runs / case.model)
        for runtime in RUNTIMES:
            whole, layers = (
                options.results / f"{case.model}-{runtime}{end}.json" for end in ("", "-layers")
            )
            if not whole.exists():
                _measure(files, runtime, options).save(whole)
            if not layers.exists():
                _measure_layers(files, runtime, options).save(layers)
            records[case.title, runtime] = BenchRecord.load(whole), LayersRecord.load(layers)
    write_text(options.page, page(records))
    print(options.page)


def page(records: Mapping[tuple[str, str], tuple[BenchRecord, LayersRecord]]) -> str:
    """Returns the page of all tables."""
    first = next(iter(records.values()))[0]
    environment = first.environment
    libraries = (f"{name} {environment['libraries'][name]}" for name in RUNTIMES)
    tables = (
        f"## {title}, {runtime}\n\n{table(whole)}\n\n{layers_table(layers)}"
        for (title, runtime), (whole, layers) in records.items()
    )
    return PAGE.format(
        cpu=environment["cpu"],
        threads=first.measured[0].threads,
        load=environment["before"]["load_average"][0],
        libraries=", ".join(libraries),
        side=SIDE,
        train_size=TRAIN_SIZE,
        steps=" and ".join(f"{case.steps} ({case.title})" for case in CASES),
        tables="\n\n".join(tables),
    )


def table(record: BenchRecord) -> str:
    """Returns a record as a Markdown table."""
    lines = [
        "| network | MACs | parameters | batch | median ms | p99 ms | images/s | GMAC/s"
        " | FLOPs ratio | latency ratio | efficiency |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for batch in record.batches:
        base, *others = record.at_batch(batch)
        compared = ["1 | 1 | 1"]
        compared += [
            f"{found.flops_ratio:.3f} | {found.latency_ratio:.3f}"
            f" [{found.latency_low:.3f}, {found.latency_high:.3f}] | {found.efficiency:.2f}"
            for found in compare(record, batch)
        ]
        for item, ratios in zip((base, *others), compared, strict=True):
            lines.append(
                f"| {item.name} | {format_macs(item.macs)} | {format_macs(item.params)} | {batch}"
                f" | {item.median_ms:.3f} | {item.p99_ms:.3f} | {item.throughput_per_s:.1f}"
                f" | {item.gmacs_per_s:.1f} | {ratios} |"
            )
    return "\n".join(lines)


def layers_table(record: LayersRecord) -> str:
    """Returns where the time of each network goes, as a Markdown table."""
    first = record.networks[0]
    reached = first.limits
    assert reached is not None
    lines = [
        f"At batch {first.batch}, layer by layer; at best {reached.gmacs_per_s:.0f} GMAC/s and"
        f" {reached.gbytes_per_s:.0f} GB/s here.",
        "",
        "| network | whole ms | layers ms | bound ms | lagging layers | likely reasons |",
        "|---|---|---|---|---|---|",
    ]
    for network in record.networks:
        compared = [compare_layer(item, network, first) for item in network.layers]
        reasons = Counter(found.reason.partition(" (")[0] for found in compared if found)
        lagging = sum(count for reason, count in reasons.items() if reason)
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common() if reason)
        layers_ms = sum(item.median_ms for item in network.layers)
        bound = bound_ms((item.layer for item in network.layers), network.limits or reached)
        lines.append(
            f"| {network.name} | {network.network_median_ms:.3f} | {layers_ms:.3f} | {bound:.3f}"
            f" | {lagging} of {len(network.layers)} | {told} |"
        )
    return "\n".join(lines)


def _networks(case: Case, folder: Path) -> dict[str, Path]:
    """Returns name -> ONNX file of the original and of every plan."""
    network = build_network(NetworkSpec(case.model, 1.0, 1000, (3, SIDE, SIDE)), seed=0)
    cost, space = NetworkCost(network), search_space(network)
    files = {"original": folder / "original.onnx"}
    if not files["original"].exists():
        export_onnx(network.model.eval(), files["original"], input_shape=(3, SIDE, SIDE))
    limits = flops_limits(case.flops, cost, space)
    for name, units in _plans(case, folder, space, limits):
        files[name] = folder / f"{name.replace(' ', '-').replace(',', '')}.onnx"
        if not files[name].exists():
            net = slice_network(network, space.widths(units)).eval()
            export_onnx(net, files[name], input_shape=(3, SIDE, SIDE))
    return files


def _plans(
    case: Case, folder: Path, space: SearchSpace, limits: Limits
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name and the units of every plan."""
    full = space.full.astype(np.float64)
    yield "uniform", fit_widths(limits, width_grid(space, 8), full)
    wanted = _wanted(case, folder, space)
    for align in ALIGNMENTS:
        name = "DMCP, any width" if align == 1 else f"DMCP, multiples of {align}"
        yield name, fit_widths(limits, width_grid(space, align), wanted)


def _wanted(case: Case, folder: Path, space: SearchSpace) -> np.ndarray:
    """Returns the units that a search expects every group to keep."""
    run = api.search(
        case.model,
        case.flops,
        out=folder / "search",
        data="elpv",
        train_size=TRAIN_SIZE,
        align=1,
        max_steps=case.steps,
        compute=Compute(progress=TerminalProgress()),
    )
    rows = run.figures("search")["probabilities"]
    steps = np.array([sum(accumulate(row, mul)) for row in rows])
    return np.asarray(space.minimum + space.step * steps)


def _measure(files: Mapping[str, Path], runtime: str, options: argparse.Namespace) -> BenchRecord:
    return measure_artifacts(files, _how(runtime, options), progress=TerminalProgress())


def _measure_layers(
    files: Mapping[str, Path], runtime: str, options: argparse.Namespace
) -> LayersRecord:
    return measure_layers(files, _how(runtime, options), progress=TerminalProgress())


def _how(runtime: str, options: argparse.Namespace) -> BenchOptions:
    return BenchOptions(BATCHES, options.threads, options.seconds, runtime)


if __name__ == "__main__":
    main()
