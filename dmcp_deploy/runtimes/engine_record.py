"""An engine's sidecar: what it was built from, for what, and what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import LATER, digest_file, encode, load_artifact, write_artifact
from dmcp_deploy.data.input_record import InputRecord
from dmcp_deploy.errors import DmcpError

KIND = "engine"


@dataclass(frozen=True)
class EngineRecord:
    """What is known of an engine file.

    Attributes:
        engine: The engine's file name; it lies beside the sidecar.
        engine_digest: SHA-256 of the engine.
        engine_bytes: Its size.
        onnx: The name of the ONNX file it was built from.
        onnx_digest: SHA-256 of that file, and of the files of its external weights.
        plan_digest: SHA-256 of the channel plan the network has; None if that is not known.
        macs: Multiply-adds for one image, counted in that file.
        params: Stored weights of that file.
        runtime: "tensorrt" or "tensorrt-rtx".
        runtime_version: The version that built it.
        targets: GPU architectures it was built for ahead of time; empty: see `gpu`.
        gpu: The GPU it was built on: name, compute capability, driver; None for an engine that
            was built ahead of time.
        precision: "fp32", "fp16", "bf16", "int8" or "fp8", confirmed from the layers.
        input_shape: (C, H, W) of one image.
        batches: The smallest, the best and the largest batch; all the same in a static engine.
        options: Further build options.
        layers: Every layer: name, kind, precision.
        layer_precisions: Precision -> layers that compute in it.
        weight_bytes: Bytes of weights, where the build log tells them.
        activation_bytes: Bytes of activations, where the build log or the engine tells them.
        build_s: Seconds the build took.
        warnings: The build's warnings.
        onnx_weights: Names of the files of external weights, from the ONNX file's folder on.
        input: What the network is fed with, where the ONNX file says so.
    """

    engine: str
    engine_digest: str
    engine_bytes: int
    onnx: str
    onnx_digest: str
    plan_digest: str | None
    macs: int
    params: int
    runtime: str
    runtime_version: str
    targets: tuple[str, ...]
    gpu: Mapping[str, str] | None
    precision: str
    input_shape: tuple[int, int, int]
    batches: tuple[int, int, int]
    options: Mapping[str, Any]
    layers: tuple[Mapping[str, str], ...]
    layer_precisions: Mapping[str, int]
    weight_bytes: int | None
    activation_bytes: int | None
    build_s: float
    warnings: tuple[str, ...]
    onnx_weights: tuple[str, ...] = field(default=(), metadata=LATER)
    input: InputRecord | None = field(default=None, metadata=LATER)

    def save(self, engine: Path) -> Path:
        """Writes the sidecar of an engine; returns its path."""
        path = sidecar_path(engine)
        write_artifact(path, KIND, encode(self))
        return path

    @classmethod
    def load(cls, engine: Path) -> EngineRecord:
        """Returns the sidecar of an engine, once the engine is seen to be the one it tells of.

        Raises:
            DmcpError: The engine or its sidecar is missing or damaged, or they do not belong
                together.
        """
        if not engine.is_file():
            raise DmcpError(f"There is no engine {engine}: build it with dmcp-deploy engine.")
        if not sidecar_path(engine).exists():
            raise DmcpError(
                f"{engine} has no sidecar {sidecar_path(engine).name}: copy that file beside it,"
                " or build the engine with dmcp-deploy engine."
            )
        record = load_artifact(sidecar_path(engine), KIND, cls, remedy=": build the engine again")
        if record.engine_digest != digest_file(engine):
            raise DmcpError(
                f"{engine} is not the engine its sidecar tells of (another digest): copy both"
                " files anew, or build it again."
            )
        return record


def sidecar_path(engine: Path) -> Path:
    """Returns where an engine's sidecar lies."""
    return engine.with_name(f"{engine.name}.json")
