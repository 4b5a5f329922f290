"""What the GPU at hand does: the device layer, torch with and without graphs, TensorRT engines.

    python benchmarks/gpu.py --out benchmarks/results

Every network is run whole and sliced to half of its multiply-adds. Where TensorRT is installed and
supports the GPU, engines are built, compared with torch and timed; where it is not, or does not,
the record says so and the rest is measured. The file is named after the GPU.
"""

from __future__ import annotations

import argparse
import copy
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

from dmcp_deploy import doctor
from dmcp_deploy.artifact import write_text
from dmcp_deploy.bench.environment import read_environment
from dmcp_deploy.bench.onnx_cost import onnx_cost
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.engine import EngineOptions, Origin, build_engine
from dmcp_deploy.export.precisions import Evidence, convert, precision_path
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.export.verify import compare_outputs
from dmcp_deploy.runtimes.device import Device, open_device
from dmcp_deploy.runtimes.tensorrt import EngineSession

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
        "environment": read_environment(),
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
    parser.add_argument("--rounds", type=int, default=200)
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
    for precision, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
        # A copy: what half precision has rounded does not come back.
        model = copy.deepcopy(net).to("cuda", dtype, memory_format=torch.channels_last)
        given = torch.from_numpy(images).to("cuda", dtype, memory_format=torch.channels_last)
        logits = model(given).float().cpu().numpy()
        parity = compare_outputs(truth, logits).to_json()
        torch.cuda.synchronize()
        eager = _time_torch(lambda m=model, x=given: m(x), options.rounds)
        yield {"what": f"torch {precision}", **parity, **eager}
        yield {"what": f"torch {precision}, graph", **_time_graph(model, given, options.rounds)}


def _time_torch(call: Callable[[], object], rounds: int) -> dict[str, Any]:
    for _ in range(20):
        call()
    samples = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end))
    return {"median_ms": statistics.median(samples), "samples_ms": samples}


def _time_graph(model: nn.Module, images: torch.Tensor, rounds: int) -> dict[str, Any]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(images)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(images)
    return _time_torch(graph.replay, rounds)


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
            yield {"what": what, **row}
            if "problem" in row:
                break


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
            **_time_engine(session, images, options.rounds),
        }


def _time_engine(session: EngineSession, images: np.ndarray, rounds: int) -> dict[str, Any]:
    device, enqueue = session.device, session.prepare(len(images))
    calls = {"samples_ms": enqueue}
    if device.supports_graphs:
        calls["graph_samples_ms"] = device.capture(enqueue).launch
    found: dict[str, Any] = {
        name: _time_events(device, call, rounds) for name, call in calls.items()
    }
    found["transfer_samples_ms"] = _time_events(device, lambda: session.run(images), rounds)
    found["median_ms"] = statistics.median(found["samples_ms"])
    found["with_transfers_ms"] = statistics.median(found["transfer_samples_ms"])
    return found


def _time_events(device: Device, call: Callable[[], object], rounds: int) -> list[float]:
    start, end = device.event(), device.event()
    samples = []
    for number in range(rounds + 20):
        device.record(start)
        call()
        device.record(end)
        elapsed = device.elapsed_ms(start, end)
        if number >= 20:
            samples.append(elapsed)
    return samples


def _device_layer(binding: str) -> dict[str, Any]:
    """Copies to the device and back, over one of the libraries, and times it."""
    sent = np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32)
    with open_device(binding) as device:
        host, back = device.pinned(sent.shape), device.pinned(sent.shape)
        host[...] = sent
        buffer = device.alloc(host.nbytes)
        times = _time_events(device, lambda: device.copy_in(buffer, host), 20)
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
