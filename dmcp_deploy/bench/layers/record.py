"""The layers record: what each layer of some networks took, as their runtime's profiler tells."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import encode, load_artifact, write_artifact
from dmcp_deploy.bench.layers.roofline import Limits
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.layers import OnnxLayer

KIND = "layers"


@dataclass(frozen=True)
class LayerTime:
    """One convolution or linear layer and what its kernels took, all that is fused included.

    Attributes:
        layer: The layer, at the batch size that was run.
        samples_ms: Its time in every profiled run.
    """

    layer: OnnxLayer
    samples_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.layer.macs < 1 or self.layer.bytes < 1:
            raise DmcpError(
                f"The layer {self.layer.name} has {self.layer.macs} multiply-adds and"
                f" {self.layer.bytes} bytes: both must be 1 or more."
            )
        _check_samples(self.layer.name, self.samples_ms)

    @property
    def median_ms(self) -> float:
        """Its time in the middle run."""
        return statistics.median(self.samples_ms)

    @property
    def gmacs_per_s(self) -> float:
        """Billions of multiply-adds a second in the middle run."""
        return self.layer.macs / self.median_ms / 1e6


@dataclass(frozen=True)
class OtherKernels:
    """What kernels of one kind took that compute no convolution or linear layer.

    Attributes:
        kind: The runtime's type of them.
        count: How many there are.
        samples_ms: Their time together in every profiled run.
    """

    kind: str
    count: int
    samples_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.count < 1:
            raise DmcpError(f"There are {self.count} kernels of kind {self.kind}.")
        _check_samples(self.kind, self.samples_ms)

    @property
    def median_ms(self) -> float:
        """Their time together in the middle run."""
        return statistics.median(self.samples_ms)


@dataclass(frozen=True)
class Profiled:
    """One network, profiled.

    Attributes:
        name: What the network is called in the record.
        path: Name of the file that was run.
        digest: SHA-256 of that file.
        batch: Images per call.
        runtime: What ran it.
        threads: Threads asked for; 0 is the runtime's own choice.
        layers: Its convolution and linear layers that have kernels, in graph order.
        without_kernel: Names of those that have none of their own.
        others: Its other kernels, by kind.
        network_ms: Latency of whole calls with profiling off, all samples.
        limits: What the runtime reaches here; None on a GPU, where that is not measured.
    """

    name: str
    path: str
    digest: str
    batch: int
    runtime: str
    threads: int
    layers: tuple[LayerTime, ...]
    without_kernel: tuple[str, ...]
    others: tuple[OtherKernels, ...]
    network_ms: tuple[float, ...]
    limits: Limits | None

    def __post_init__(self) -> None:
        if not self.layers:
            raise DmcpError(f"{self.name} has no layer that was timed.")
        if self.batch < 1:
            raise DmcpError(f"{self.name} has the batch size {self.batch}: it must be 1 or more.")
        _check_samples(self.name, self.network_ms)
        if len({len(samples) for samples in self._all_ms()}) > 1:
            raise DmcpError(f"The layers of {self.name} have different numbers of samples.")
        if len({item.layer.name for item in self.layers}) < len(self.layers):
            raise DmcpError(f"A layer of {self.name} stands twice in one record.")

    @property
    def network_median_ms(self) -> float:
        """Latency of the middle call with profiling off."""
        return statistics.median(self.network_ms)

    @property
    def median_sum_ms(self) -> float:
        """Sum of the kernels' median times: what disturbs one run or another is not in it."""
        return sum(statistics.median(samples) for samples in self._all_ms())

    @property
    def smallest_ms(self) -> float:
        """Time of the smallest kernel: what starting any kernel costs."""
        others = (item.median_ms / item.count for item in self.others)
        return min((*others, *(item.median_ms for item in self.layers)))

    def _all_ms(self) -> list[tuple[float, ...]]:
        others = [item.samples_ms for item in self.others]
        return [*(item.samples_ms for item in self.layers), *others]

    def find(self, name: str) -> LayerTime | None:
        """Returns a layer by name; None if it has none of that name."""
        return next((item for item in self.layers if item.layer.name == name), None)


@dataclass(frozen=True)
class LayersRecord:
    """Networks profiled together; the first is the one that the others are compared with.

    Attributes:
        networks: Every network, all at one batch size.
        environment: The machine and the libraries (see `machine.environment`).
        input_shape: (C, H, W).
    """

    networks: tuple[Profiled, ...]
    environment: Mapping[str, Any]
    input_shape: tuple[int, int, int] = field(metadata={"json": "input"})

    def __post_init__(self) -> None:
        if not self.networks:
            raise DmcpError("A layers record needs at least one profiled network.")
        if len({item.name for item in self.networks}) < len(self.networks):
            raise DmcpError("A network is profiled twice in one record.")
        if len({item.batch for item in self.networks}) > 1:
            raise DmcpError("The networks were profiled at different batch sizes.")
        counts = {(len(item.layers[0].samples_ms), len(item.network_ms)) for item in self.networks}
        if len(counts) > 1:
            raise DmcpError(
                "The networks have different numbers of samples: they were not profiled side by"
                " side."
            )

    def save(self, path: Path) -> None:
        """Writes the record as JSON, all samples included."""
        # The samples come last, where they hide nothing.
        head = {"input": self.input_shape, "environment": self.environment}
        write_artifact(path, KIND, {**head, **encode(self)})

    @classmethod
    def load(cls, path: Path) -> LayersRecord:
        """Returns the record in a file.

        Raises:
            DmcpError: The file is absent, damaged, of another kind or schema version, or holds
                samples that no measurement gives.
        """
        return load_artifact(path, KIND, cls, f"The layers record {path}")


def _check_samples(name: str, samples: Sequence[float]) -> None:
    if not samples:
        raise DmcpError(f"{name} has no samples.")
    bad = [ms for ms in samples if not (math.isfinite(ms) and ms > 0)]
    if bad:
        raise DmcpError(f"{name} has a sample of {bad[0]} ms: samples are finite and above zero.")
