"""How often the latency gate errs, how far it is biased and how long it takes, on this machine.

    python benchmarks/gate_rates.py --gates 200 --out benchmarks/results/gate_rates.json

Two kinds of gates at a limit of 5%, turn by turn: a network against itself, and a smaller network
run 11 times against 10 times, which is slower by 10% by construction. A killed run continues at
the gate that is missing. Let nothing else run meanwhile, or say so with the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dmcp_deploy.artifact import digest_file, write_text
from dmcp_deploy.bench.decision import Load, decide_by_loads
from dmcp_deploy.bench.gate import GATE_SECONDS, Opened, Race
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.affinity import pinned
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.runtimes.session import open_session

LIMIT = 0.05
#: Kind of gate -> image side, runs of the old and of the new network in one sample. At a ninth of
#: the pixels ten runs last about as long as one: a longer sample is interrupted more often.
KINDS = {"equal": (64, 1, 1), "slower by 10%": (20, 10, 11)}
ASKED = {"equal": "alarms", "slower by 10%": "caught"}


def main() -> None:
    """Runs the gates that are missing, then prints and writes the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gates", type=int, default=200, help="Gates of either kind.")
    parser.add_argument("--model", type=Path, help="An ONNX file; by default a small network.")
    parser.add_argument("--runtime", default="onnxruntime", help="onnxruntime or openvino.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=GATE_SECONDS, help="Most for one gate.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gate_rates.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        gates = _run_missing(args, Path(folder))
    for name, value in _rates(gates).items():
        print(f"{name}: {value}")


def _run_missing(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Returns all gates; every one that is made is written at once."""
    models = {
        kind: args.model or _small_network(folder / f"{side}.onnx", side)
        for kind, (side, *_) in KINDS.items()
    }
    asked = {
        "models": {kind: digest_file(model) for kind, model in models.items()},
        "runtime": args.runtime,
        "threads": args.threads,
        "seconds": args.seconds,
        "limit": LIMIT,
    }
    gates = _done(args.out, asked)
    for number in range(args.gates):
        for kind, (_, *runs) in KINDS.items():
            if number >= sum(gate["kind"] == kind for gate in gates):
                opened = functools.partial(_opened, models[kind], args.runtime, args.threads, runs)
                with pinned(args.threads):  # as `gate_against` is
                    gates.append({"kind": kind, **_gate(opened, args.seconds)})
                _write(args.out, asked, gates)
    return gates


def _gate(opened: Opened, seconds: float) -> dict[str, Any]:
    start = time.perf_counter()
    race = Race(opened, seconds)
    loads: list[Load] = []
    found = decide_by_loads(_kept(race.loads(), loads), LIMIT)
    return {
        "verdict": found.verdict,
        "ratio": found.ratio,
        "low": found.low,
        "high": found.high,
        "loads": len(loads),
        "samples": len(race.old_ms),
        "old_ms": statistics.median(race.old_ms),
        "seconds": round(time.perf_counter() - start, 3),
        "load_average": read_environment()["load_average"],
    }


def _kept(loads: Iterator[Load], kept: list[Load]) -> Iterator[Load]:
    for load in loads:
        kept.append(load)
        yield load


@contextlib.contextmanager
def _opened(
    model: Path, runtime: str, threads: int, runs: Sequence[int], new_first: bool
) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """Loads the network twice, in either order, to be run so many times by one call."""
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(open_session(model, runtime, threads)) for _ in runs]
        if new_first:
            sessions.reverse()
        batch, *image = sessions[0].input_shape
        shape = (batch or 1, *(int(size or 0) for size in image))
        images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

        def repeated(run: Callable[..., object], count: int) -> None:
            for _ in range(count):
                run(images)

        old, new = (
            functools.partial(repeated, session.run, count)
            for session, count in zip(sessions, runs, strict=True)
        )
        yield old, new


def _rates(gates: list[dict[str, Any]]) -> dict[str, Any]:
    rates: dict[str, Any] = {}
    for kind, title in ASKED.items():
        found = [gate for gate in gates if gate["kind"] == kind]
        verdicts = [gate["verdict"] for gate in found]
        rates[f"{kind}: gates"] = len(found)
        rates[f"{kind}: {title}"] = verdicts.count("regression")
        rates[f"{kind}: too noisy to tell"] = verdicts.count("too noisy to tell")
        rates[f"{kind}: mean ratio [95%]"] = _mean([gate["ratio"] for gate in found])
        seconds = [gate["seconds"] for gate in found]
        rates[f"{kind}: seconds, median and longest"] = [statistics.median(seconds), max(seconds)]
    return rates


def _mean(ratios: list[float]) -> list[float]:
    """Returns the mean and its 95% interval."""
    mean = statistics.fmean(ratios)
    spread = statistics.stdev(ratios) if len(ratios) > 1 else math.nan
    reach = 1.96 * spread / math.sqrt(len(ratios))
    return [round(value, 5) for value in (mean, mean - reach, mean + reach)]


def _done(out: Path, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the gates that an earlier run has made."""
    if not out.exists():
        return []
    content = json.loads(out.read_text(encoding="utf-8"))
    if content["asked"] != asked:
        raise SystemExit(f"{out} holds gates of {content['asked']}: give another --out.")
    return list(content["gates"])


def _write(out: Path, asked: dict[str, Any], gates: list[dict[str, Any]]) -> None:
    both = {gate["kind"] for gate in gates} == set(KINDS)
    content = {
        "asked": asked,
        "environment": read_environment(),
        "rates": _rates(gates) if both else {},
        "gates": gates,
    }
    write_text(out, json.dumps(content, indent=1).replace("NaN", "null") + "\n")


def _small_network(path: Path, size: int, width: int = 32, layers: int = 5) -> Path:
    """Writes convolutions of 3x3, a millisecond on one core at 64 pixels; returns the path."""
    rng = np.random.default_rng(0)
    weights, nodes, maps, channels = {}, [], "input", 3
    for i in range(layers):
        shape = (width, channels, 3, 3)
        weights[f"conv{i}"] = rng.standard_normal(shape, dtype=np.float32) / math.sqrt(9 * channels)
        stride = 2 if i == 0 else 1
        nodes += [
            helper.make_node(
                "Conv", [maps, f"conv{i}"], [f"maps{i}"], pads=[1] * 4, strides=[stride] * 2
            ),
            helper.make_node("Relu", [f"maps{i}"], [f"active{i}"]),
        ]
        maps, channels = f"active{i}", width
    weights["linear"] = rng.standard_normal((10, width), dtype=np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [maps], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "linear"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        [
            numpy_helper.from_array(np.asarray(value, np.float32), name)
            for name, value in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(model, path)
    return path


if __name__ == "__main__":
    try:
        main()
    except DmcpError as err:
        raise SystemExit(str(err)) from err
