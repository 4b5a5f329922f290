"""Made-up layers records with the truth of what is derived from them."""

from __future__ import annotations

from dataclasses import replace

from dmcp_deploy.bench.layers.record import LayersRecord, LayerTime, OtherKernels, Profiled
from dmcp_deploy.bench.layers.roofline import Limits
from dmcp_deploy.onnxgraph.layers import OnnxLayer

#: A millisecond holds 100M multiply-adds, or 10 MB.
LIMITS = Limits(100.0, 10.0)
ROUNDS = 20


def layer(name: str, inputs: int, outputs: int, **changes: object) -> OnnxLayer:
    """Returns a 1x1 convolution on a map of 100x100, in FP32."""
    shape = OnnxLayer(
        name=name,
        kind="conv",
        macs=inputs * outputs * 10_000,
        params=inputs * outputs,
        in_channels=inputs,
        out_channels=outputs,
        groups=1,
        kernel=(1, 1),
        out_shape=(1, outputs, 100, 100),
        bytes=4 * ((inputs + outputs) * 10_000 + inputs * outputs),
    )
    return replace(shape, **changes)  # type: ignore[arg-type]


def timed(shape: OnnxLayer, time_ms: float) -> LayerTime:
    """Returns a layer that takes the same in every run."""
    return LayerTime(shape, (time_ms,) * ROUNDS)


def profiled(name: str, *layers: LayerTime, limits: Limits | None = LIMITS) -> Profiled:
    """Returns a network of these layers, with 10 reorders of 5 microseconds each."""
    return Profiled(
        name=name,
        path=f"{name}.onnx",
        digest="sha256:0",
        batch=1,
        runtime="onnxruntime",
        threads=1,
        layers=layers,
        without_kernel=(),
        others=(OtherKernels("Reorder", 10, (0.05,) * ROUNDS),),
        network_ms=(9.0,) * ROUNDS,
        limits=limits,
    )


WHOLE = profiled(
    "whole",
    timed(layer("first", 64, 64), 2.0),
    timed(layer("last", 64, 128), 3.0),
    timed(layer("only here", 8, 8), 0.5),
)
HALF = profiled(
    "half",
    timed(layer("first", 64, 32), 1.0),
    timed(layer("last", 32, 61), 2.5),
)
RECORD = LayersRecord((WHOLE, HALF), {"cpu": "a cpu"}, (3, 100, 100))
