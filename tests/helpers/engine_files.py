"""Engine files with sidecars, without TensorRT: for what is decided before one is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.runtimes.engine_record import EngineRecord

RECORD = EngineRecord(
    engine="net.engine",
    engine_digest="",
    engine_bytes=4,
    onnx="net.onnx",
    onnx_digest="sha256:0",
    plan_digest=None,
    macs=1000,
    params=64,
    runtime="tensorrt-rtx",
    runtime_version="1.7.1.116",
    targets=("sm86", "sm89"),
    gpu=None,
    precision="fp32",
    input_shape=(3, 16, 16),
    batches=(1, 1, 1),
    options={"dla": None},
    layers=({"name": "conv", "kind": "correlation", "precision": "fp32"},),
    layer_precisions={"fp32": 1},
    weight_bytes=608,
    activation_bytes=None,
    build_s=0.1,
    warnings=(),
)


def write_engine(
    folder: Path, content: bytes = b"vtrt", **changes: Any
) -> tuple[Path, EngineRecord]:
    """Writes an engine file and its sidecar; returns the engine's path and the record."""
    path = folder / "net.engine"
    path.write_bytes(content)
    record = dataclasses.replace(
        RECORD, engine_digest=digest_file(path), engine_bytes=len(content), **changes
    )
    record.save(path)
    return path, record
