"""How far a latency that the library measures is from that of a bare loop over the same runtime.

    python benchmarks/instrument_error.py --out benchmarks/results/instrument_error.json

A network is opened by the library, and the loaded network is timed in turn by the library's own
sampling and by `time.perf_counter_ns` around the runtime's own call, in one process, on one pinned
core. Blocks of both alternate as ours, bare, bare, ours; every load brings pairs of its own. All
samples are kept, in nanoseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from dmcp_deploy.artifact import write_text
from dmcp_deploy.bench.timing import time_interleaved, warm_up
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.machine.affinity import pinned
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.runtimes.onnxruntime import OnnxSession
from dmcp_deploy.runtimes.sampler import Clock, make_sampler
from dmcp_deploy.runtimes.session import Session, open_session

sys.path.insert(0, str(Path(__file__).parent))

RESULT = Path("benchmarks/results/instrument_error.json")
RUNTIMES = ("onnxruntime", "openvino")
LOADS = 4

#: Network -> side of its images, pairs of blocks per load, seconds of a block.
NETWORKS = {"small_mobilenet": (96, 12, 0.05), "mobilenet_v2": (224, 10, 0.2)}


def main() -> None:
    """Measures both ways and writes all samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    rows = []
    environment = read_environment()
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: _exported(name, Path(scratch)) for name in NETWORKS}
        for runtime in RUNTIMES:
            for name, path in files.items():
                pairs = list(_pairs(path, name, runtime, options.threads))
                rows.append({"runtime": runtime, "network": name, "pairs": pairs})
    content = {"environment": environment, "threads": options.threads, "rows": rows}
    write_text(options.out, json.dumps(content) + "\n")
    print(report(content))


def report(content: dict[str, Any]) -> str:
    """Returns the two medians of every network and runtime as a Markdown table."""
    lines = [
        "| network | runtime | bare ms | ours ms | medians differ by | pairs differ by | samples |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        ours, bare = (
            [ns for pair in row["pairs"] for ns in pair[way]] for way in ("ours_ns", "bare_ns")
        )
        medians = statistics.median(bare) / 1e6, statistics.median(ours) / 1e6
        ratios = [
            statistics.median(pair["ours_ns"]) / statistics.median(pair["bare_ns"]) - 1
            for pair in row["pairs"]
        ]
        low, middle, high = statistics.quantiles(ratios, n=4)
        cells = [
            row["network"],
            row["runtime"],
            *(f"{ms:.4f}" for ms in medians),
            f"{medians[1] / medians[0] - 1:+.2%}",
            f"{middle:+.2%} (middle half {low:+.2%} to {high:+.2%})",
            str(len(ours) + len(bare)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _exported(name: str, folder: Path) -> Path:
    side = NETWORKS[name][0]
    return export_onnx(_network(name), folder / f"{name}.onnx", input_shape=(3, side, side)).path


def _network(name: str) -> nn.Module:
    if name == "small_mobilenet":
        from networks import small_mobilenet

        return small_mobilenet().eval()
    from variants import whole_and_half

    return whole_and_half(name, NETWORKS[name][0])["whole"]


def _pairs(path: Path, name: str, runtime: str, threads: int) -> Iterator[dict[str, list[int]]]:
    """Yields the samples of pair after pair of blocks, over several loads."""
    side, pairs, block_s = NETWORKS[name]
    images = np.random.default_rng(0).standard_normal((1, 3, side, side), dtype=np.float32)
    for load in range(LOADS):
        print(f"{name}, {runtime}, load {load + 1} of {LOADS}", file=sys.stderr, flush=True)
        with pinned(threads), open_session(path, runtime, threads) as session:
            bare = _bare_call(session, images)
            warm_up([bare], block_s)
            ways: dict[str, Callable[[], list[int]]] = {
                "ours_ns": partial(_ours, session, images, block_s),
                "bare_ns": partial(_bare, bare, block_s),
            }
            for number in range(pairs):
                order = list(ways)[:: 1 if number % 2 == 0 else -1]
                yield {way: ways[way]() for way in order}


def _ours(session: Session, images: np.ndarray, seconds: float) -> list[int]:
    sampler = make_sampler(session, images, Clock())
    found = time_interleaved({"network": sampler}, seconds=seconds, warmup_s=0.0)
    return [round(ms * 1e6) for ms in found["network"]]


def _bare(call: Callable[[], object], seconds: float) -> list[int]:
    samples = []
    for _ in range(2):
        call()
    end = time.perf_counter_ns() + round(seconds * 1e9)
    while time.perf_counter_ns() < end:
        start = time.perf_counter_ns()
        call()
        samples.append(time.perf_counter_ns() - start)
    return samples


def _bare_call(session: Session, images: np.ndarray) -> Callable[[], object]:
    """Returns the runtime's own call of the network that a session has loaded."""
    if isinstance(session, OnnxSession):
        loaded = session._session
        names, given = [loaded.get_outputs()[0].name], {loaded.get_inputs()[0].name: images}
        return lambda: loaded.run(names, given)
    request = session._request  # type: ignore[attr-defined]
    return lambda: request.infer([images], share_inputs=True)


if __name__ == "__main__":
    main()
