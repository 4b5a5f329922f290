"""A made-up latency record, for what readers derive from one."""

from __future__ import annotations

from dataclasses import replace

from dmcp_deploy.bench.record import BenchRecord, Measured

DENSE = Measured(
    name="original",
    path="original.onnx",
    digest="sha256:aa",
    macs=300_774_272,
    params=3_504_872,
    batch=1,
    runtime="onnxruntime",
    threads=1,
    samples_ms=(4.0, 8.0) * 8,
)
PRUNED = replace(
    DENSE,
    name="pruned",
    path="model.onnx",
    digest="sha256:bb",
    macs=150_387_136,
    params=2_000_000,
    samples_ms=(3.2, 6.4) * 8,
)
RECORD = BenchRecord(
    (DENSE, PRUNED, replace(DENSE, batch=8), replace(PRUNED, batch=8, samples_ms=(4.2, 8.4) * 8)),
    {"cpu": "a cpu", "governor": None},
    (3, 224, 224),
)
