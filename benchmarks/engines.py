"""What TensorRT-RTX makes of networks whole and pruned to half; no GPU is needed, none is used.

    python benchmarks/engines.py --out benchmarks/results/engines.json

Weights are random and INT8 is calibrated on noise: layers, bytes and build times depend on neither.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dmcp_deploy.artifact import write_text
from dmcp_deploy.export.engine import Origin, build_engine
from dmcp_deploy.export.engine_options import EngineOptions
from dmcp_deploy.export.precisions import Evidence, convert, precision_path
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.onnxgraph.cost import onnx_cost

sys.path.insert(0, str(Path(__file__).parent))

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
SIDE = 224


def main() -> None:
    """Builds the engines and writes what their sidecars tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/engines.json"))
    parser.add_argument("--models", default="mobilenet_v2,resnet18,resnet50")
    options = parser.parse_args()
    rows = [row for model in options.models.split(",") for row in _rows(model)]
    content = {"environment": read_environment(), "rows": rows}
    write_text(options.out, json.dumps(content, indent=1) + "\n")
    print(report(rows))


def report(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table."""
    lines = [
        "| network | MACs | precision | batch | layers | weights MB | activations MB | build s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        layers = ", ".join(f"{count} {name}" for name, count in row["layer_precisions"].items())
        sizes = [row["weight_bytes"] / 1e6, row["activation_bytes"] / 1e6, row["build_s"]]
        cells = [row["network"], f"{row['macs'] / 1e6:.1f}M", row["precision"], str(row["batch"])]
        lines.append(f"| {' | '.join([*cells, layers, *(f'{size:.2f}' for size in sizes)])} |")
    return "\n".join(lines)


def _rows(model: str) -> list[dict[str, Any]]:
    from variants import whole_and_half

    rows = []
    calibration = np.random.default_rng(0).standard_normal((32, 3, SIDE, SIDE), dtype=np.float32)
    for variant, net in whole_and_half(model, SIDE).items():
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "net.onnx"
            export_onnx(net, source, input_shape=(3, SIDE, SIDE))
            for precision in PRECISIONS:
                path = precision_path(source, source.parent, precision)
                convert(source, path, precision, Evidence(calibration))
                rows += [_row(f"{model} {variant}", path, batch) for batch in (1, 8)]
    return rows


def _row(network: str, path: Path, batch: int) -> dict[str, Any]:
    cost = onnx_cost(path)
    options = EngineOptions("tensorrt-rtx", (batch, batch, batch), gpu_archs=("sm86", "sm89"))
    _, record = build_engine(path, path.parent, options, Origin(cost.macs, cost.params))
    names = ("precision", "runtime_version", "weight_bytes", "activation_bytes", "engine_bytes")
    return {
        "network": network,
        "batch": batch,
        "macs": cost.macs,
        "onnx_weight_bytes": cost.weight_bytes,
        "layer_precisions": dict(record.layer_precisions),
        "targets": list(record.targets),
        "build_s": record.build_s,
        **{name: getattr(record, name) for name in names},
    }


if __name__ == "__main__":
    main()
