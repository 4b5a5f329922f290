"""One build of an engine: a network parsed, configured and serialised; never torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dmcp_deploy.artifact import atomic_path, check_writable
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.export.engine_layers import Layer, layers_of_inspector, layers_of_log
from dmcp_deploy.export.engine_options import EngineOptions
from dmcp_deploy.onnxgraph.file import OnnxFile
from dmcp_deploy.runtimes.tensorrt import inspect_engine
from dmcp_deploy.runtimes.trt_api import Builder, IBuilderConfig, INetworkDefinition
from dmcp_deploy.runtimes.trt_flavours import Loaded, Message, reasons

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class BuildResult:
    """An engine, and what its build has told.

    Attributes:
        engine: The serialised engine.
        layers: Its layers.
        messages: What TensorRT has said.
        seconds: How long it took.
    """

    engine: bytes
    layers: Sequence[Layer]
    messages: Sequence[Message]
    seconds: float


def run_build(loaded: Loaded, network: OnnxFile, options: EngineOptions) -> BuildResult:
    """Returns the engine of a network.

    Raises:
        DmcpError: TensorRT refuses the network or an option.
    """
    started = time.monotonic()
    with loaded.log.collecting() as messages:
        engine = _Build(loaded, network, options, messages).engine()
        layers = _layers(loaded, engine, messages)
    return BuildResult(engine, layers, messages, time.monotonic() - started)


def image_shape(network: OnnxFile) -> tuple[int, int, int]:
    """Returns (C, H, W) of one image.

    Raises:
        DmcpError: The file leaves the size open.
    """
    channels, height, width = network.input_shape[1:]
    if channels is None or height is None or width is None:
        raise DmcpError(
            f"{network.path} leaves the image size open ({list(network.input_shape)}): export it"
            " with a fixed one."
        )
    return channels, height, width


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
            network.get_input(0).shape = (self._options.batches[0], *image_shape(self._file))

    def _add_profile(self, builder: Builder, config: IBuilderConfig) -> None:
        if self._options.is_static:
            return
        profile = self._checked(builder.create_optimization_profile(), "make an input range")
        image = image_shape(self._file)
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


def _layers(loaded: Loaded, engine: bytes, messages: Sequence[Message]) -> list[Layer]:
    """Returns the engine's layers: from the build log, else from the engine loaded once."""
    logged = layers_of_log(message.text for message in messages)
    return logged or layers_of_inspector(inspect_engine(loaded, engine, messages))
