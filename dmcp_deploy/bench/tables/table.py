"""The latency table: what each layer of a network takes at some widths on one device."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dmcp_deploy.artifact import LATER, encode, load_artifact, write_artifact
from dmcp_deploy.bench.tables.probes import LayerForm, ProbedGroup, Widths
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.environment import first_gpu
from dmcp_deploy.onnxgraph.layers import OnnxLayer
from dmcp_deploy.options.measure import Setting
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.registry import ENGINE_RUNTIMES

KIND = "latency-table"

#: The quantile of a plan's calls that stands for them: disturbances only ever make calls slower.
_LOW = 0.25

#: Fields of the environment that make the device.
DEVICE = ("machine", "cpu", "cores", "board", "gpus")


@dataclass(frozen=True)
class Times:
    """What something took in each probe.

    Attributes:
        ms: The 10th percentile of the samples, in milliseconds.
        spread_ms: Half the range of the same over the passes.
    """

    ms: tuple[float, ...]
    spread_ms: tuple[float, ...]


@dataclass(frozen=True)
class TableLayer:
    """One layer of the network, in every probe.

    Attributes:
        name: Its name.
        kind: "conv", "depthwise", "transposed" or "linear".
        kernel: Sides of a convolution's filter.
        sides: Sides of its output.
        full_bytes: What it reads and writes in the full network.
        in_channels: Channels that it reads in each probe.
        out_channels: Channels that it writes in each probe.
        own: What its kernels took.
        after: What the kernels took that follow, up to the next layer's: no layers themselves,
            but reorders, pools, additions.
        form: How its channels follow from the groups'; None where that is not known.
    """

    name: str
    kind: str
    kernel: tuple[int, ...]
    sides: tuple[int, ...]
    full_bytes: int
    in_channels: tuple[int, ...]
    out_channels: tuple[int, ...]
    own: Times
    after: Times
    form: LayerForm | None

    @property
    def shape(self) -> tuple[object, ...]:
        """What layers have in common that take the same time at the same widths."""
        full = (self.in_channels[0], self.out_channels[0], self.full_bytes)
        return (self.kind, self.kernel, self.sides, *full)

    @property
    def total_ms(self) -> tuple[float, ...]:
        """Its own time and that of what follows, in each probe."""
        return tuple(a + b for a, b in zip(self.own.ms, self.after.ms, strict=True))


@dataclass(frozen=True)
class PlanTimes:
    """What a plan's network took, and the full one beside it, in passes.

    Attributes:
        widths: Group -> channels kept.
        ms: Whole calls in each pass, with profiling off.
        reference_ms: Those of the full network in the same minute.
    """

    widths: Widths
    ms: tuple[tuple[float, ...], ...]
    reference_ms: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        for passes in (self.ms, self.reference_ms):
            if not passes or not all(passes):
                raise DmcpError("A plan was not measured.")
            if not all(math.isfinite(ms) and ms > 0 for some in passes for ms in some):
                raise DmcpError("A plan's times are finite and above zero.")

    @property
    def ratios(self) -> Sequence[float]:
        """The lower quartile over the full network's, in each pass."""
        pairs = zip(self.ms, self.reference_ms, strict=True)
        return [float(np.quantile(a, _LOW) / np.quantile(b, _LOW)) for a, b in pairs]

    @property
    def ratio(self) -> float:
        """The middle one of the ratios."""
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class LatencyTable:
    """The layers of a network on one device, in one runtime.

    Attributes:
        network: The full network.
        align: Widths of the probes are multiples of it where a group is larger.
        seed: The seed of the widths.
        setting: How it was measured.
        ran_by: What ran the probes, with its version and precision.
        environment: The machine and the libraries (see `machine.environment`).
        groups: The groups that are narrowed.
        widths: Probe -> group -> channels kept; the first probe is the full network.
        whole: What whole calls took in each probe, with profiling off.
        median_ms: The median of the same samples.
        layers: The layers, in graph order.
        plans: Whole plans that correct what the layers say.
    """

    network: NetworkSpec = field(metadata={"json": "model"})
    align: int
    seed: int
    setting: Setting
    ran_by: str
    environment: Mapping[str, Any]
    groups: Mapping[str, ProbedGroup]
    widths: Mapping[str, Widths] = field(metadata={"json": "probes"})
    whole: Times
    median_ms: tuple[float, ...]
    layers: tuple[TableLayer, ...]
    plans: tuple[PlanTimes, ...] = field(default=(), metadata=LATER)

    def __post_init__(self) -> None:
        count = len(self.widths)
        if count < 2 or not self.layers:
            raise DmcpError(
                f"A table needs 2 probes and a layer, and has {count} and {len(self.layers)}."
            )
        if len({layer.name for layer in self.layers}) < len(self.layers):
            raise DmcpError("A layer stands twice in one table.")
        _check_values("whole calls", count, self.whole.ms)
        _check_values("whole calls", count, self.whole.spread_ms, self.median_ms)
        if (least := min(*self.whole.ms, *self.median_ms)) <= 0:
            raise DmcpError(f"whole calls took {least} ms: times are above zero.")
        for layer in self.layers:
            _check_layer(layer, count)
        for plan in self.plans:
            _check_plan(plan, self.groups)

    @property
    def full_ms(self) -> float:
        """The middle call of the full network, of all passes in which it was measured."""
        if not self.plans:
            return self.median_ms[0]
        passes = (ms for plan in self.plans for ms in plan.reference_ms)
        return statistics.median(map(statistics.median, passes))

    @property
    def kernels_ms(self) -> tuple[float, ...]:
        """Time of all kernels together in each probe."""
        return tuple(map(sum, zip(*(layer.total_ms for layer in self.layers), strict=True)))

    @property
    def usual_factor(self) -> float:
        """How much longer the middle call takes than the 10th percentile, in the middle probe."""
        return usual_factor(self.whole.ms, self.median_ms)

    @property
    def device(self) -> str:
        """What it was measured on, in words."""
        on_gpu = self.setting.runtime in ENGINE_RUNTIMES
        gpu = first_gpu(self.environment) if on_gpu else None
        return gpu or str(self.environment.get("cpu") or self.environment.get("machine"))

    def save(self, path: Path) -> None:
        """Writes the table as JSON."""
        write_artifact(path, KIND, encode(self))

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Returns the table in a file.

        Raises:
            DmcpError: The file is absent, damaged, of another kind or schema version, or holds
                times that no measurement gives.
        """
        return load_artifact(path, KIND, cls, f"The latency table {path}")


def output_sides(layer: OnnxLayer) -> tuple[int, ...]:
    """Returns the sides of a layer's output, batch and channels apart."""
    return layer.out_shape[1:-1] if layer.kind == "linear" else layer.out_shape[2:]


def usual_factor(low_ms: Sequence[float], median_ms: Sequence[float]) -> float:
    """Returns the middle of the ratios of medians to 10th percentiles."""
    return statistics.median(b / a for a, b in zip(low_ms, median_ms, strict=True))


def error_share(predicted: Iterable[float], measured: Iterable[float]) -> float:
    """Returns the relative error that 90% of some predictions stay below."""
    pairs = zip(predicted, measured, strict=True)
    errors = sorted(abs(a / b - 1) for a, b in pairs if b > 0)
    return errors[math.ceil(0.9 * len(errors)) - 1] if errors else 0.0


def _check_layer(layer: TableLayer, count: int) -> None:
    _check_values(layer.name, count, layer.own.ms, layer.after.ms)
    _check_values(layer.name, count, layer.own.spread_ms, layer.after.spread_ms)
    for channels in (layer.in_channels, layer.out_channels):
        if len(channels) != count or min(channels) < 1:
            raise DmcpError(f"{layer.name} needs channels in each of {count} probes, 1 or more.")


def _check_plan(plan: PlanTimes, groups: Mapping[str, ProbedGroup]) -> None:
    if set(plan.widths) != set(groups):
        raise DmcpError("A plan of the table has other groups than its network.")
    for name, width in plan.widths.items():
        if not 0 < width <= groups[name].size or width % groups[name].unit:
            raise DmcpError(f"A plan of the table has {width} channels in the group {name}.")
    if len(plan.ms) != len(plan.reference_ms):
        raise DmcpError("A plan of the table was measured in other passes than the full network.")


def _check_values(name: str, count: int, *values: Iterable[float]) -> None:
    for some in map(tuple, values):
        if len(some) != count:
            raise DmcpError(f"{name}: {len(some)} times for {count} probes.")
        bad = [ms for ms in some if not (math.isfinite(ms) and ms >= 0)]
        if bad:
            raise DmcpError(f"{name}: a time of {bad[0]} ms; times are finite and not below zero.")
