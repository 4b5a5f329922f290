"""What this package uses of TensorRT: its classes by their own names, for `tensorrt` and RTX alike.

No release of either module ships types, and both carry the same classes; these Protocols are the
only way the package touches them, so the static checker refuses a name that is not listed here,
and a test compares the list with the real bindings of every release that is supported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

#: Enumerations of the module and the members of them that are used.
ENUM_MEMBERS: dict[str, tuple[str, ...]] = {
    "BuilderFlag": ("GPU_FALLBACK",),
    "DeviceType": ("DLA",),
    "LayerInformationFormat": ("JSON",),
    "MemoryPoolType": ("WORKSPACE",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "ProfilingVerbosity": ("DETAILED",),
    "TensorIOMode": ("INPUT", "OUTPUT"),
}

#: "Class.attribute" -> the flavours that have it, for what not all of them have. It is used only
#: where the flavour's table says so.
GUARDED: dict[str, frozenset[str]] = {
    "TensorRT.ComputeCapability": frozenset({"tensorrt-rtx"}),
    "IBuilderConfig.num_compute_capabilities": frozenset({"tensorrt-rtx"}),
    "IBuilderConfig.set_compute_capability": frozenset({"tensorrt-rtx"}),
}


class ILogger(Protocol):
    """Receives messages; `log` is overridden."""

    def log(self, severity: Any, msg: str) -> None:
        """Takes one message."""


class IHostMemory(Protocol):
    """A serialised engine or cache; `bytes(memory)` copies it."""

    nbytes: int

    def __buffer__(self, flags: int) -> memoryview:
        """Gives the memory itself."""


class ITensor(Protocol):
    """An input of the network."""

    shape: Sequence[int]


class INetworkDefinition(Protocol):
    """The network as parsed."""

    num_outputs: int

    def get_input(self, index: int) -> ITensor:
        """One of the inputs."""


class ParserError(Protocol):
    """One thing that the ONNX parser refused."""

    def desc(self) -> str:
        """The reason; "false" for an operator that is not supported."""

    def node_name(self) -> str:
        """The ONNX node's name."""

    def node_operator(self) -> str:
        """The ONNX node's operator."""


class OnnxParser(Protocol):
    """Reads an ONNX file into a network."""

    num_errors: int

    def parse_from_file(self, model: str) -> bool:
        """Returns whether the parser saw nothing wrong."""

    def get_error(self, index: int) -> ParserError:
        """One of the errors."""


class IOptimizationProfile(Protocol):
    """The range of input shapes that an engine takes."""

    def set_shape(
        self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]
    ) -> None:
        """Sets the range of one input."""


class ITimingCache(Protocol):
    """Timings of kernels, kept from build to build."""

    def serialize(self) -> IHostMemory:
        """The cache's content."""


class IBuilderConfig(Protocol):
    """How an engine is built."""

    profiling_verbosity: Any
    builder_optimization_level: int
    default_device_type: Any
    DLA_core: int
    num_compute_capabilities: int

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        """Sets one of the GPUs to build for; False if it is refused."""

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        """Returns the profile's index; -1 if it is refused."""

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        """Limits a kind of memory, in bytes."""

    def set_flag(self, flag: Any) -> None:
        """Sets a builder flag."""

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        """A cache from what `serialize` gave; from b"" a new one."""

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """Uses a cache; False if it comes from another device or version."""

    def get_timing_cache(self) -> ITimingCache | None:
        """The cache in use."""


class Builder(Protocol):
    """Builds engines."""

    num_DLA_cores: int  # noqa: N815 - TensorRT's own name

    def create_network(self, flags: int) -> INetworkDefinition | None:
        """An empty network."""

    def create_builder_config(self) -> IBuilderConfig | None:
        """A configuration with default values."""

    def create_optimization_profile(self) -> IOptimizationProfile | None:
        """An empty range of shapes."""

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        """The engine; None if the build failed."""


class EngineInspector(Protocol):
    """Tells what is in an engine."""

    execution_context: IExecutionContext

    def get_engine_information(self, format: Any) -> str:
        """The layers, as text."""


class IProfiler(Protocol):
    """Receives the layers' times; `report_layer_time` is overridden."""

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        """Takes one layer's time of one run."""


class IExecutionContext(Protocol):
    """One engine, ready to run."""

    profiler: IProfiler

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        """Sets an input's shape; False if the engine does not take it."""

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Sets where an input or output lies in device memory."""

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        """A tensor's shape for the inputs' shapes."""

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Enqueues one run on a stream."""


class ICudaEngine(Protocol):
    """An engine on this GPU."""

    num_io_tensors: int

    def create_execution_context(self) -> IExecutionContext | None:
        """A context; None if there is no memory for it."""

    def create_engine_inspector(self) -> EngineInspector | None:
        """An inspector of this engine."""

    def get_tensor_name(self, index: int) -> str:
        """The name of an input or output."""

    def get_tensor_mode(self, name: str) -> Any:
        """Whether it is an input or an output."""

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Sequence[Sequence[int]]:
        """An input's smallest, best and largest shape."""


class Runtime(Protocol):
    """Loads engines."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        """The engine; None if it cannot be loaded here."""


class TensorRT(Protocol):
    """The module itself, `tensorrt` or `tensorrt_rtx`."""

    __version__: str
    ILogger: Any
    IProfiler: Any
    BuilderFlag: Any
    ComputeCapability: Any
    DeviceType: Any
    LayerInformationFormat: Any
    MemoryPoolType: Any
    NetworkDefinitionCreationFlag: Any
    ProfilingVerbosity: Any
    TensorIOMode: Any

    def Builder(self, logger: ILogger) -> Builder:  # noqa: N802 - TensorRT's own name
        """A builder; only one logger a process takes effect."""

    def OnnxParser(  # noqa: N802 - TensorRT's own name
        self, network: INetworkDefinition, logger: ILogger
    ) -> OnnxParser:
        """A parser that fills a network."""

    def Runtime(self, logger: ILogger) -> Runtime:  # noqa: N802 - TensorRT's own name
        """A runtime."""
