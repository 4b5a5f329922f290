"""ONNX -> TensorRT or TensorRT-RTX engine; never torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import atomic_path, digest_file
from dmcp_deploy.data.input_record import InputRecord
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.engine_build import BuildResult, image_shape, run_build
from dmcp_deploy.export.engine_layers import confirm_precision
from dmcp_deploy.export.engine_options import EngineOptions
from dmcp_deploy.machine.cuda.driver import choose_device, read_driver
from dmcp_deploy.onnxgraph.file import OnnxFile, inspect_onnx
from dmcp_deploy.runtimes.engine_record import EngineRecord
from dmcp_deploy.runtimes.session import ENGINE_SUFFIX
from dmcp_deploy.runtimes.trt_flavours import TURING, find_flavour, load_flavour, warnings_of

_MEMORY = re.compile(r"^Total (Weights|Activation) Memory: (\d+) bytes")
#: What RTX builds for Turing: anything else fails late.
_TURING_PRECISIONS = ("fp16", "int8")


@dataclass(frozen=True)
class Origin:
    """What an engine's sidecar tells of the network beside its ONNX file.

    Attributes:
        macs: Multiply-adds for one image.
        params: Stored weights.
        plan_digest: SHA-256 of its channel plan; None if that is not known.
    """

    macs: int
    params: int
    plan_digest: str | None = None


def build_engine(
    onnx: Path, folder: Path, options: EngineOptions, origin: Origin
) -> tuple[Path, EngineRecord]:
    """Builds the engine of an ONNX file into a folder, with its sidecar; returns path and record.

    The network is strongly typed: it computes in the types that the ONNX file has, and the
    engine's own layer information must confirm them.

    Args:
        onnx: The file; its precision is what the engine shall have.
        folder: Where engine and sidecar are written; made if it is not there.
        options: What to build for.
        origin: What the sidecar shall tell of the network.

    Raises:
        DmcpError: The file, the options, TensorRT or the GPU do not allow it; the file's operators
            are not supported; or the engine fell back to another precision.
    """
    network = inspect_onnx(onnx)
    loaded = load_flavour(options.runtime)
    check_fits(network, options)
    gpu = gpu_of(options.runtime)
    path = folder / engine_name(onnx, network.precision, options)
    # The file is opened first: a folder that cannot be written to is found before the build.
    with atomic_path(path) as part:
        built = run_build(loaded, network, options)
        confirmed = confirm_precision(built.layers, network.precision, f"The engine of {onnx}")
        part.write_bytes(built.engine)
        digest = digest_file(part)
    record = EngineRecord(
        engine=path.name,
        engine_digest=digest,
        runtime_version=loaded.version,
        gpu=gpu,
        layer_precisions=confirmed,
        **_told_by_file(network),
        **_told_by_build(built),
        **_told_by_options(options),
        **vars(origin),
    )
    record.save(path)
    return path, record


def engine_name(onnx: Path, precision: str, options: EngineOptions) -> str:
    """Returns an engine's file name, in which a network's engines all differ."""
    stem = onnx.stem if f".{precision}" in onnx.stem else f"{onnx.stem}.{precision}"
    return f"{stem}.{options.label}{ENGINE_SUFFIX}"


def check_fits(network: OnnxFile, options: EngineOptions) -> None:
    """Checks what TensorRT would refuse late, or not refuse.

    Args:
        network: What is to be built; its precision may be the one it shall be converted to.
        options: What it is to be built for.

    Raises:
        DmcpError: The file cannot be built for that.
    """
    flavour = find_flavour(options.runtime)
    image_shape(network)
    _check_batch(network, options.batches)
    if TURING in options.gpu_archs and network.precision not in _TURING_PRECISIONS:
        raise DmcpError(
            f"{network.path} is {network.precision}, and {flavour.name} builds for Turing"
            f" ({TURING}) in {' and '.join(_TURING_PRECISIONS)}: use --precision fp16."
        )
    if network.precision in ("int8", "fp8") and network.preset == "cpu":
        raise DmcpError(
            f"{network.path} was quantised for CPUs, and TensorRT takes symmetric scales alone:"
            ' quantise it with the preset "tensorrt".'
        )
    if options.dla is not None and network.precision not in ("fp16", "int8"):
        raise DmcpError(
            f"{network.path} is {network.precision}, and a DLA computes in fp16 or int8: use"
            " --precision fp16."
        )


def gpu_of(runtime: str) -> dict[str, str] | None:
    """Returns the GPU that a runtime builds on and for; None if it builds ahead of time.

    Raises:
        DmcpError: It needs a GPU, and there is none, or no driver.
    """
    if find_flavour(runtime).targets:
        return None
    driver = read_driver()
    device = choose_device(driver, 0)
    capability = ".".join(map(str, device.compute_capability))
    return {"name": device.name, "capability": capability, "driver": driver.version or "unknown"}


def still_holds(record: EngineRecord, options: EngineOptions) -> bool:
    """Returns whether an engine is what would be built here and now, by its record.

    Raises:
        DmcpError: TensorRT or its GPU is not there.
    """
    gpu, wanted = gpu_of(options.runtime), _further_options(options)
    return (
        record.runtime_version == load_flavour(options.runtime).version
        and (record.gpu or {}).get("name") == (gpu or {}).get("name")
        and record.batches == options.batches
        and record.targets == options.gpu_archs
        # Known timings change how long a build takes, and not what is asked of it.
        and {**record.options, "timing_cache": None} == {**wanted, "timing_cache": None}
    )


def _told_by_file(network: OnnxFile) -> dict[str, Any]:
    """Returns the fields of a record that follow from the ONNX file."""
    return {
        "onnx": network.path.name,
        "onnx_digest": network.digest,
        "precision": network.precision,
        "input_shape": image_shape(network),
        "onnx_weights": network.weight_files,
        "input": InputRecord.from_onnx(network.metadata, str(network.path)),
    }


def _told_by_build(built: BuildResult) -> dict[str, Any]:
    """Returns the fields of a record that the build has told."""
    # "Weights" and "Activation" -> bytes, where the log tells them.
    sizes = (_MEMORY.match(message.text) for message in built.messages)
    memory = {size[1]: int(size[2]) for size in sizes if size}
    return {
        "engine_bytes": len(built.engine),
        "layers": tuple(layer.to_json() for layer in built.layers),
        "weight_bytes": memory.get("Weights"),
        "activation_bytes": memory.get("Activation"),
        "build_s": round(built.seconds, 3),
        "warnings": tuple(warnings_of(built.messages)),
    }


def _told_by_options(options: EngineOptions) -> dict[str, Any]:
    """Returns the fields of a record that were asked for."""
    return {
        "runtime": options.runtime,
        "targets": options.gpu_archs,
        "batches": options.batches,
        "options": _further_options(options),
    }


def _check_batch(network: OnnxFile, batches: tuple[int, int, int]) -> None:
    fixed = network.batch
    if fixed is not None and batches != (fixed, fixed, fixed):
        raise DmcpError(
            f"{network.path} has the fixed batch size {fixed} and cannot be built for"
            f" {'-'.join(map(str, sorted(set(batches))))}: build it for {fixed}, or export it with"
            " an open batch size."
        )


def _further_options(options: EngineOptions) -> Mapping[str, Any]:
    return {
        "dla": options.dla,
        "timing_cache": options.timing_cache is not None,
        "workspace_bytes": options.workspace_bytes,
        "optimization_level": options.optimization_level,
    }
