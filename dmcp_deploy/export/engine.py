"""ONNX -> TensorRT or TensorRT-RTX engine; never torch."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dmcp_deploy.artifact import atomic_path, check_writable, digest_file
from dmcp_deploy.data.input_record import InputRecord
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.export.engine_layers import (
    Layer,
    confirm_precision,
    layers_of_inspector,
    layers_of_log,
)
from dmcp_deploy.export.engine_options import EngineOptions
from dmcp_deploy.machine.cuda.driver import choose_device, read_driver
from dmcp_deploy.onnxgraph.file import OnnxFile, inspect_onnx
from dmcp_deploy.runtimes.engine_record import EngineRecord
from dmcp_deploy.runtimes.session import ENGINE_SUFFIX
from dmcp_deploy.runtimes.tensorrt import inspect_engine
from dmcp_deploy.runtimes.trt_api import Builder, IBuilderConfig, INetworkDefinition
from dmcp_deploy.runtimes.trt_flavours import (
    TURING,
    Loaded,
    Message,
    find_flavour,
    load_flavour,
    reasons,
    warnings_of,
)

_Result = TypeVar("_Result")

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
        started = time.monotonic()
        with loaded.log.collecting() as messages:
            engine = _Build(loaded, network, options, messages).engine()
            layers = _layers(loaded, engine, messages)
        seconds = time.monotonic() - started
        counts = confirm_precision(layers, network.precision, f"The engine of {onnx}")
        part.write_bytes(engine)
        digest = digest_file(part)
    # "Weights" and "Activation" -> bytes, where the log tells them.
    sizes = (_MEMORY.match(message.text) for message in messages)
    memory = {size[1]: int(size[2]) for size in sizes if size}
    record = EngineRecord(
        engine=path.name,
        engine_digest=digest,
        engine_bytes=len(engine),
        onnx=onnx.name,
        onnx_digest=network.digest,
        plan_digest=origin.plan_digest,
        macs=origin.macs,
        params=origin.params,
        runtime=options.runtime,
        runtime_version=loaded.version,
        targets=options.gpu_archs,
        gpu=gpu,
        precision=network.precision,
        input_shape=_image_shape(network),
        batches=options.batches,
        options=_further_options(options),
        layers=tuple(layer.to_json() for layer in layers),
        layer_precisions=counts,
        weight_bytes=memory.get("Weights"),
        activation_bytes=memory.get("Activation"),
        build_s=round(seconds, 3),
        warnings=tuple(warnings_of(messages)),
        onnx_weights=network.weight_files,
        input=InputRecord.from_onnx(network.metadata, str(onnx)),
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
    _image_shape(network)
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


class _Build:
    """One build; nothing in TensorRT raises, so every answer is looked at."""

    def __init__(
        self, loaded: Loaded, network: OnnxFile, options: EngineOptions, messages: list[Message]
    ) -> None:
        self._trt, self._flavour, self._logger = loaded.trt, loaded.flavour, loaded.log.logger
        self._file, self._options, self._messages = network, options, messages

    def engine(self) -> bytes:
        """Returns the serialised engine."""
        builder = self._checked(self._trt.Builder(self._logger), "make a builder")
        flag = 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self._checked(builder.create_network(flag), "make a network")
        self._parse(network)
        self._fix_batch(network)
        config = self._checked(builder.create_builder_config(), "make a configuration")
        self._configure(builder, config)
        self._add_profile(builder, config)
        self._set_targets(config)
        plan = builder.build_serialized_network(network, config)
        engine = bytes(self._checked(plan, f"build an engine of {self._file.path}"))
        self._keep_timings(config)
        return engine

    def _checked(self, result: _Result | None, what: str) -> _Result:
        if result is None:
            raise DmcpError(f"{self._flavour.name} cannot {what}: {reasons(self._messages)}.")
        return result

    def _refusal(self, what: str) -> DmcpError:
        return DmcpError(f"{self._flavour.name} refuses {what}: {reasons(self._messages)}.")

    def _parse(self, network: INetworkDefinition) -> None:
        parser = self._trt.OnnxParser(network, self._logger)
        parsed = parser.parse_from_file(str(self._file.path))
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        if errors:
            at = f"{errors[0].node_operator()} ({errors[0].node_name()})"
            why = " ".join(errors[0].desc().split()).rstrip(".")
            reason = "" if why in ("", "false") else f": {why}"
            raise DmcpError(
                f"{self._flavour.name} does not support the operator {at} of"
                f" {self._file.path}{reason}; replace it in the network, or try another opset."
            )
        # Of a file that is no ONNX at all the parser makes an empty network and sees no error.
        if not parsed or network.num_outputs < 1:
            raise self._refusal(f"{self._file.path}")

    def _configure(self, builder: Builder, config: IBuilderConfig) -> None:
        config.profiling_verbosity = self._trt.ProfilingVerbosity.DETAILED
        options = self._options
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(
                self._trt.MemoryPoolType.WORKSPACE, options.workspace_bytes
            )
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.dla is not None:
            self._use_dla(builder, config, options.dla)
        if options.timing_cache is not None:
            self._use_timings(config, options.timing_cache)

    def _use_dla(self, builder: Builder, config: IBuilderConfig, core: int) -> None:
        if core >= builder.num_DLA_cores:
            raise DmcpError(
                f"--dla {core}: this device has {builder.num_DLA_cores} DLA cores that"
                f" {self._flavour.name} can use; leave out --dla where it has none."
            )
        config.default_device_type = self._trt.DeviceType.DLA
        config.DLA_core = core
        config.set_flag(self._trt.BuilderFlag.GPU_FALLBACK)

    def _use_timings(self, config: IBuilderConfig, path: Path) -> None:
        """Starts from the timings in a file; those of another device or version are left out."""
        check_writable(path)
        try:
            known = path.read_bytes() if path.exists() else b""
        except OSError as err:
            raise DmcpError(f"Cannot read {path}: {reason_of(err)}.") from err
        for content in (known, b""):
            cache = config.create_timing_cache(content)
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                return
        raise self._refusal(f"a timing cache in {path}")

    def _keep_timings(self, config: IBuilderConfig) -> None:
        path = self._options.timing_cache
        cache = config.get_timing_cache() if path is not None else None
        if path is not None and cache is not None:
            with atomic_path(path) as part:
                part.write_bytes(bytes(cache.serialize()))

    def _fix_batch(self, network: INetworkDefinition) -> None:
        """Gives an open batch its one size: kernels for open shapes are slower."""
        if self._options.is_static and self._file.input_shape[0] is None:
            network.get_input(0).shape = (self._options.batches[0], *_image_shape(self._file))

    def _add_profile(self, builder: Builder, config: IBuilderConfig) -> None:
        if self._options.is_static:
            return
        profile = self._checked(builder.create_optimization_profile(), "make an input range")
        image = _image_shape(self._file)
        smallest, best, largest = ((batch, *image) for batch in self._options.batches)
        try:
            profile.set_shape(self._file.input_name, smallest, best, largest)
        except (ValueError, RuntimeError) as err:
            raise DmcpError(
                f"{self._flavour.name} refuses batches {self._options.batches}: {reason_of(err)}."
            ) from err
        if config.add_optimization_profile(profile) < 0:
            raise self._refusal(f"batches {self._options.batches}")

    def _set_targets(self, config: IBuilderConfig) -> None:
        archs = self._options.gpu_archs
        if not archs:
            return
        config.num_compute_capabilities = len(archs)
        for index, arch in enumerate(archs):
            member = getattr(self._trt.ComputeCapability, arch.upper(), None)
            if member is None or not config.set_compute_capability(member, index):
                raise self._refusal(f"the GPU architecture {arch}")


def _check_batch(network: OnnxFile, batches: tuple[int, int, int]) -> None:
    fixed = network.batch
    if fixed is not None and batches != (fixed, fixed, fixed):
        raise DmcpError(
            f"{network.path} has the fixed batch size {fixed} and cannot be built for"
            f" {'-'.join(map(str, sorted(set(batches))))}: build it for {fixed}, or export it with"
            " an open batch size."
        )


def _layers(loaded: Loaded, engine: bytes, messages: Sequence[Message]) -> list[Layer]:
    """Returns the engine's layers: from the build log, else from the engine loaded once."""
    logged = layers_of_log(message.text for message in messages)
    return logged or layers_of_inspector(inspect_engine(loaded, engine, messages))


def _image_shape(network: OnnxFile) -> tuple[int, int, int]:
    channels, height, width = network.input_shape[1:]
    if channels is None or height is None or width is None:
        raise DmcpError(
            f"{network.path} leaves the image size open ({list(network.input_shape)}): export it"
            " with a fixed one."
        )
    return channels, height, width


def _further_options(options: EngineOptions) -> Mapping[str, Any]:
    return {
        "dla": options.dla,
        "timing_cache": options.timing_cache is not None,
        "workspace_bytes": options.workspace_bytes,
        "optimization_level": options.optimization_level,
    }
