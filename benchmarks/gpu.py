"""What the GPU at hand does: the device layer, torch with and without graphs, TensorRT engines.

    python benchmarks/gpu.py --out benchmarks/results

Every network is run whole and sliced to half of its multiply-adds. Where TensorRT is installed and
supports the GPU, engines are built, compared with torch and timed; where it is not, or does not,
the record says so and the rest is measured. The file is named after the GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dmcp_deploy.artifact import write_text
from dmcp_deploy.bench.timing import time_interleaved
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.engine import Origin, build_engine
from dmcp_deploy.export.engine_options import EngineOptions
from dmcp_deploy.export.precisions import Evidence, convert, precision_path
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.export.verify import compare_outputs
from dmcp_deploy.machine.cuda.device import open_device
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.onnxgraph.cost import onnx_cost
from dmcp_deploy.runtimes import doctor
from dmcp_deploy.runtimes.sampler import (
    EVENTS,
    EVENTS_GRAPH,
    WALL_TRANSFERS,
    Clock,
    by_events,
    make_sampler,
)
from dmcp_deploy.runtimes.session import Session
from dmcp_deploy.runtimes.tensorrt import EngineSession
from dmcp_deploy.runtimes.torch_session import TorchSession

sys.path.insert(0, str(Path(__file__).parent))

SIDE = 224
PRECISIONS = ("fp32", "fp16", "int8")


def main() -> None:
    """Measures what can be measured and writes the record."""
    options = _options()
    if not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here: there is nothing to measure.")
    name = torch.cuda.get_device_name()
    content: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "gpu": name,
        "capability": list(torch.cuda.get_device_capability()),
        "torch_cuda": torch.version.cuda,
        "environment": read_environment(devices=True),
        "doctor": doctor.to_json(doctor.examine()),
        "device_layer": {name: _told(_device_layer, name) for name in ("cuda-python", "pycuda")},
        "networks": {},
    }
    for model, variant, net in _networks(options.models.split(",")):
        print(f"{model}, {variant}", flush=True)
        content["networks"][f"{model} {variant}"] = _network(net, options)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    path = options.out / f"gpu-{slug}.json"
    write_text(path, json.dumps(content, indent=1) + "\n")
    print(report(content))
    print(path)


def report(content: dict[str, Any]) -> str:
    """Returns the latencies as a Markdown table."""
    lines = [
        "| network | MACs | batch | what | median ms | with transfers | SNR dB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, net in content["networks"].items():
        for row in net["rows"]:
            figures = [row.get("median_ms"), row.get("with_transfers_ms"), row.get("snr_db")]
            cells = ["" if value is None else f"{value:.4g}" for value in figures]
            what = row["what"] + (f": {row['problem']}" if "problem" in row else "")
            macs = f"{net['macs'] / 1e6:.1f}M"
            lines.append(f"| {name} | {macs} | {row['batch']} | {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--models", default="mobilenet_v2,resnet18,resnet50")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--seconds", type=float, default=1.0, help="Of each timing.")
    return parser.parse_args()


def _networks(models: list[str]) -> Iterator[tuple[str, str, nn.Module]]:
    """Yields every network whole, and sliced uniformly to half of its multiply-adds."""
    from variants import whole_and_half

    for model in models:
        for variant, net in whole_and_half(model, SIDE).items():
            yield model, variant, net


def _network(net: nn.Module, options: argparse.Namespace) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        source = export_onnx(net, Path(scratch) / "net.onnx", input_shape=(3, SIDE, SIDE)).path
        cost = onnx_cost(source)
        for batch in map(int, options.batches.split(",")):
            images = np.random.default_rng(batch).standard_normal((batch, 3, SIDE, SIDE))
            images = images.astype(np.float32)
            truth = net(torch.from_numpy(images)).numpy()
            rows += [row | {"batch": batch} for row in _torch_rows(net, images, truth, options)]
            rows += [row | {"batch": batch} for row in _engine_rows(source, images, truth, options)]
    return {"macs": cost.macs, "params": cost.params, "rows": rows}


def _torch_rows(
    net: nn.Module, images: np.ndarray, truth: np.ndarray, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    path, image = Path("torch"), images.shape[1:]
    for precision in ("fp32", "fp16"):
        with TorchSession(net, path, image, device="cuda", precision=precision) as session:
            parity = compare_outputs(truth, session.run(images)).to_json()
            found = _timed(session, images, options.seconds)
        yield {"what": f"torch {precision}", **parity, **_latencies(found, EVENTS)}
        yield {"what": f"torch {precision}, graph", **_latencies(found, EVENTS_GRAPH)}


def _engine_rows(
    source: Path, images: np.ndarray, truth: np.ndarray, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    calibration = Evidence(rng.standard_normal((32, *images.shape[1:]), dtype=np.float32))
    for runtime in ("tensorrt", "tensorrt-rtx"):
        for precision in PRECISIONS:
            what = f"{runtime} {precision}"
            row = _told(
                _engine_row, runtime, precision, source, images, truth, calibration, options
            )
            timings = row.pop("timings", {})
            if "problem" in row:
                yield {"what": what, **row}
                break
            for timing in (EVENTS, EVENTS_GRAPH):
                if timing in timings:
                    graph = ", graph" if timing == EVENTS_GRAPH else ""
                    yield {"what": what + graph, **row, **_latencies(timings, timing)}


def _engine_row(
    runtime: str,
    precision: str,
    source: Path,
    images: np.ndarray,
    truth: np.ndarray,
    calibration: Evidence,
    options: argparse.Namespace,
) -> dict[str, Any]:
    path = precision_path(source, source.parent, precision)
    if not path.exists():
        convert(source, path, precision, calibration)
    cost, batch = onnx_cost(path), len(images)
    build = EngineOptions(runtime, (batch, batch, batch))
    engine, record = build_engine(path, source.parent, build, Origin(cost.macs, cost.params))
    with EngineSession(engine) as session:
        parity = compare_outputs(truth, session.run(images)).to_json()
        return {
            **parity,
            "layers": dict(record.layer_precisions),
            "engine_bytes": record.engine_bytes,
            "build_s": record.build_s,
            "timings": _timed(session, images, options.seconds),
        }


def _timed(session: Session, images: np.ndarray, seconds: float) -> dict[str, list[float]]:
    """Returns the samples of every way in which a session can be timed."""
    clocks = {
        EVENTS: Clock(graph=False),
        EVENTS_GRAPH: Clock(graph=True),
        WALL_TRANSFERS: Clock(transfers=True),
    }
    if isinstance(session, EngineSession) and not session.device.supports_graphs:
        del clocks[EVENTS_GRAPH]
    found = {}
    for timing, clock in clocks.items():
        # One after the other: what is enqueued holds until the session's next run.
        call = {timing: make_sampler(session, images, clock)}
        found |= time_interleaved(call, seconds=seconds, warmup_s=seconds / 2)
    return found


def _latencies(found: dict[str, list[float]], timing: str) -> dict[str, Any]:
    transfers = found[WALL_TRANSFERS]
    return {
        "median_ms": statistics.median(found[timing]),
        "with_transfers_ms": statistics.median(transfers),
        "samples_ms": found[timing],
        "transfer_samples_ms": transfers,
    }


def _device_layer(binding: str) -> dict[str, Any]:
    """Copies to the device and back, over one of the libraries, and times it."""
    sent = np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32)
    with open_device(binding) as device:
        host, back = device.pinned(sent.shape), device.pinned(sent.shape)
        host[...] = sent
        buffer = device.alloc(host.nbytes)
        copy = by_events(device, lambda: device.copy_in(buffer, host))
        times = time_interleaved({"copy": copy}, seconds=0.5, warmup_s=0.1)["copy"]
        device.copy_out(back, buffer)
        device.synchronize()
        equal = bool((back == sent).all())
        return {
            "device": device.name,
            "driver": device.driver_version,
            "graphs": device.supports_graphs,
            "round_trip_equal": equal,
            "host_to_device_gb_per_s": host.nbytes / statistics.median(times) / 1e6,
        }


def _told(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Returns what some work finds, or the sentence that says why it cannot be done here."""
    try:
        return work(*arguments)
    except DmcpError as err:
        return {"problem": " ".join(str(err).split())}


if __name__ == "__main__":
    main()
