"""What is measured: files and networks, each of which knows how it is opened and what it is."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.cost import onnx_cost
from dmcp_deploy.onnxgraph.precision import read_precision
from dmcp_deploy.registry import NETWORK_RUNTIMES
from dmcp_deploy.runtimes.engine_record import EngineRecord
from dmcp_deploy.runtimes.session import Session, is_engine, open_session

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Facts:
    """What is known of a network without running it.

    Attributes:
        macs: Multiply-adds for one image.
        params: Stored weights.
        weight_bytes: Their bytes; None where that is not known.
        precision: "fp32", "fp16", "bf16", "int8" or "fp8"; None for another.
    """

    macs: int
    params: int
    weight_bytes: int | None
    precision: str | None


class Artifact(Protocol):
    """A network that can be measured."""

    @property
    def path(self) -> Path:
        """The file that stands for it in a record, by its name, digest and size."""

    def at_batch(self, batch: int) -> Artifact:
        """Returns what runs so many images at once."""

    def open(self) -> Session:
        """Returns it loaded for running.

        Raises:
            DmcpError: It or its runtime is not there, or they do not fit.
        """

    def facts(self) -> Facts:
        """Returns what is known of it.

        Raises:
            DmcpError: It cannot be read.
        """


@dataclass(frozen=True)
class FileArtifact:
    """An ONNX file, or an engine.

    Attributes:
        path: The file.
        runtime: What runs an ONNX file; an engine names its own runtime.
        threads: Threads on a CPU; 0 leaves the number to the runtime.
    """

    path: Path
    runtime: str = "onnxruntime"
    threads: int = 0

    def at_batch(self, batch: int) -> FileArtifact:
        """Returns itself: a file says which batches it takes once it is open."""
        return self

    def open(self) -> Session:
        """Returns the file loaded (see `open_session`)."""
        return open_session(self.path, self.runtime, self.threads)

    def facts(self) -> Facts:
        """Returns what the sidecar of an engine, or the graph of an ONNX file, tells."""
        if is_engine(self.path):
            record = EngineRecord.load(self.path)
            return Facts(record.macs, record.params, record.weight_bytes, record.precision)
        cost = onnx_cost(self.path)
        return Facts(cost.macs, cost.params, cost.weight_bytes, read_precision(self.path))


@dataclass(frozen=True)
class EngineSet:
    """Engines of one network, each for a batch size of its own.

    Attributes:
        engines: Batch size -> engine file.
    """

    engines: Mapping[int, Path]

    @property
    def path(self) -> Path:
        """The first engine."""
        return next(iter(self.engines.values()))

    def at_batch(self, batch: int) -> FileArtifact:
        """Returns the engine for a batch size.

        Raises:
            DmcpError: There is none.
        """
        if batch not in self.engines:
            known = ", ".join(map(str, self.engines))
            raise DmcpError(f"There is no engine for batch {batch}, only for {known}.")
        return FileArtifact(self.engines[batch])

    def open(self) -> Session:
        """Returns the first engine, loaded."""
        return open_session(self.path)

    def facts(self) -> Facts:
        """Returns what the first engine's sidecar tells."""
        return FileArtifact(self.path).facts()


@dataclass(frozen=True)
class NetworkArtifact:
    """A network of a run, as torch has it.

    Attributes:
        path: The file of its weights.
        network: Returns the network, on the CPU; it is copied and left as it is.
        image: (C, H, W) of one image.
        macs: Multiply-adds for one image.
        threads: Threads on a CPU; 0 leaves the number to the runtime.
        runtime: What runs it, one of `registry.NETWORK_RUNTIMES`.
    """

    path: Path
    network: Callable[[], nn.Module]
    image: tuple[int, int, int]
    macs: int
    threads: int = 0
    runtime: str = "torch"

    def at_batch(self, batch: int) -> NetworkArtifact:
        """Returns itself: it takes any batch."""
        return self

    def open(self) -> Session:
        """Returns a copy of the network, on CUDA where there is any."""
        module = importlib.import_module(NETWORK_RUNTIMES[self.runtime])
        session = module.open_network(self.network(), self.path, self.image, self.threads)
        return cast("Session", session)

    def facts(self) -> Facts:
        """Returns what is counted in the network, which computes in FP32."""
        weights = list(self.network().parameters())
        params = sum(weight.numel() for weight in weights)
        size = sum(weight.numel() * weight.element_size() for weight in weights)
        return Facts(self.macs, params, size, "fp32")


def as_artifact(artifact: Path | Artifact, runtime: str, threads: int) -> Artifact:
    """Returns what is measured of an artifact, or of the file at a path."""
    if isinstance(artifact, Path):
        return FileArtifact(artifact, runtime, threads)
    return artifact
