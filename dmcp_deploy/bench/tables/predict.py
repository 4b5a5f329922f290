"""What a latency table says of a network at other widths."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dmcp_deploy.bench.tables.fit import Array, Samples, predict_ms
from dmcp_deploy.bench.tables.table import LatencyTable, TableLayer, output_sides
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.layers import onnx_layers
from dmcp_deploy.onnxgraph.precision import read_precision
from dmcp_deploy.plan import ChannelPlan, NetworkSpec
from dmcp_deploy.registry import ONNX_RUNTIMES
from dmcp_deploy.units import format_input

#: Input and output channels of each layer.
Channels = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class LayerPrediction:
    """What one layer takes.

    Attributes:
        name: Its name.
        in_channels: Channels that it reads.
        out_channels: Channels that it writes.
        own_ms: What its own kernels take.
        after_ms: What the kernels take that follow it and are no layer.
        error_ms: What 90% of the probes' errors stay below, at this time.
        is_probed: Whether both widths lie within those of the probes.
    """

    name: str
    in_channels: int
    out_channels: int
    own_ms: float
    after_ms: float
    error_ms: float
    is_probed: bool


@dataclass(frozen=True)
class Prediction:
    """What a network takes.

    Attributes:
        name: The network.
        latency_ms: The middle one of many calls.
        error_ms: What 90% of the probes' errors stay below, each predicted from the others.
        undisturbed_ms: The 10th percentile of many calls.
        overhead_ms: What of that lies outside of kernels; below zero where profiling made the
            probes' kernels slower than that.
        full_ms: The full network's measured latency.
        layers: Its layers.
    """

    name: str
    latency_ms: float
    error_ms: float
    undisturbed_ms: float
    overhead_ms: float
    full_ms: float
    layers: tuple[LayerPrediction, ...]

    @property
    def outside(self) -> tuple[str, ...]:
        """Layers whose widths lie outside of the probes'."""
        return tuple(layer.name for layer in self.layers if not layer.is_probed)

    def to_json(self) -> dict[str, Any]:
        """Returns the prediction as JSON values."""
        return {**vars(self), "layers": [dict(vars(layer)) for layer in self.layers]}


@dataclass(frozen=True)
class CallsFit:
    """Whole calls as a function of the time of all kernels.

    Attributes:
        fixed_ms: What every call takes besides.
        factor: What a millisecond of profiled kernels takes without the profiler.
    """

    fixed_ms: float
    factor: float

    def at(self, kernels_ms: float) -> float:
        """Returns the latency of a call, in milliseconds."""
        return self.fixed_ms + self.factor * kernels_ms


class Predictor:
    """Predicts networks from a table; what is computed of the table is kept."""

    def __init__(self, table: LatencyTable) -> None:
        """Nothing is computed yet."""
        self.table = table
        self._alike = layers_by_shape(table)

    def predict_plan(self, name: str, plan: ChannelPlan) -> Prediction:
        """Returns what a plan's network takes.

        Raises:
            DmcpError: The plan is of another network, or how its layers' channels follow from
                the groups is not known.
        """
        return self.predict(name, plan_channels(self.table, plan))

    def predict_file(self, path: Path, name: str) -> Prediction:
        """Returns what the network in an ONNX file takes.

        Raises:
            DmcpError: The file is of another network, or in another precision.
        """
        return self.predict(name, file_channels(self.table, path))

    def predict(self, name: str, channels: Channels) -> Prediction:
        """Returns what the network takes whose layers have these channels."""
        layers = tuple(self._layer(layer, *channels[layer.name]) for layer in self.table.layers)
        kernels_ms = sum(layer.own_ms + layer.after_ms for layer in layers)
        undisturbed_ms = self._calls.at(kernels_ms)
        latency_ms = undisturbed_ms * self.table.usual_factor
        return Prediction(
            name=name,
            latency_ms=latency_ms,
            error_ms=latency_ms * self.table.error_share,
            undisturbed_ms=undisturbed_ms,
            overhead_ms=undisturbed_ms - kernels_ms,
            full_ms=self.table.median_ms[0],
            layers=layers,
        )

    @functools.cached_property
    def _calls(self) -> CallsFit:
        return fit_calls(np.array(self.table.kernels_ms), np.array(self.table.whole.ms))

    def _layer(self, layer: TableLayer, inputs: int, outputs: int) -> LayerPrediction:
        own, after = layer_samples(self._alike[layer.shape])
        place = np.array([[inputs, outputs]], dtype=np.float64)
        own_ms = float(predict_ms(own, place, layer.own_choice)[0])
        after_ms = float(predict_ms(after, place, layer.after_choice)[0])
        low, high = own.widths.min(axis=0), own.widths.max(axis=0)
        return LayerPrediction(
            name=layer.name,
            in_channels=inputs,
            out_channels=outputs,
            own_ms=own_ms,
            after_ms=after_ms,
            error_ms=(own_ms + after_ms) * layer.error_share,
            is_probed=bool((low <= place).all() and (place <= high).all()),
        )


def layers_by_shape(table: LatencyTable) -> dict[tuple[object, ...], list[TableLayer]]:
    """Returns the layers that take the same time at the same widths, each list in graph order."""
    alike: dict[tuple[object, ...], list[TableLayer]] = {}
    for layer in table.layers:
        alike.setdefault(layer.shape, []).append(layer)
    return alike


def layer_samples(same: Sequence[TableLayer]) -> tuple[Samples, Samples]:
    """Returns the samples of layers of one shape, of their own kernels and of those that follow.

    They are ordered by layer, then by probe.
    """
    channels = [(layer.in_channels, layer.out_channels) for layer in same]
    widths = np.concatenate(channels, axis=1, dtype=np.float64).T
    own = np.concatenate([layer.own.ms for layer in same])
    after = np.concatenate([layer.after.ms for layer in same])
    by_output = same[0].kind == "depthwise"
    return Samples(widths, own, by_output), Samples(widths, after, by_output=True)


def fit_calls(kernels_ms: Array, calls_ms: Array) -> CallsFit:
    """Returns how whole calls follow from their kernels: the least sum of relative errors.

    Of all lines through two of the points, or through one and the origin, that neither start nor
    fall below zero, it is the best: a few calls that were disturbed do not move it.
    """
    points = list(zip(kernels_ms.tolist(), calls_ms.tolist(), strict=True))
    lines = [CallsFit(0.0, y / x) for x, y in points if x > 0]
    for (x1, y1), (x2, y2) in itertools.combinations(points, 2):
        slope = (y2 - y1) / (x2 - x1) if x1 != x2 else 0.0
        if slope >= 0 and y1 - slope * x1 >= 0:
            lines.append(CallsFit(y1 - slope * x1, slope))

    def error(line: CallsFit) -> float:
        return float(np.abs((line.fixed_ms + line.factor * kernels_ms) / calls_ms - 1).sum())

    return min(lines, key=error)


def plan_channels(table: LatencyTable, plan: ChannelPlan) -> Channels:
    """Returns the channels of each of a table's layers at a plan's widths.

    Raises:
        DmcpError: The plan is of another network, or how they follow from the groups is not known.
    """
    ours, theirs = table.network, plan.network
    if ours != theirs:
        raise DmcpError(
            f"The table is of {_describe(ours)} and the plan of {_describe(theirs)}: build a"
            " table of that network."
        )
    sizes = {name: group.size for name, group in table.groups.items()}
    missing = sorted(set(sizes) - set(plan.groups))
    if missing or any(plan.groups[name].size != size for name, size in sizes.items()):
        raise DmcpError(f"The plan has other channel groups than the table of {ours.model}.")
    widths = plan.widths()
    return {layer.name: _channels(layer, widths, table) for layer in table.layers}


def file_channels(table: LatencyTable, path: Path) -> Channels:
    """Returns the channels of each of a table's layers in an ONNX file.

    Raises:
        DmcpError: The file is of another network, or in another precision.
    """
    ours = {layer.name: (layer.kind, layer.kernel, layer.sides) for layer in table.layers}
    layers = {layer.name: layer for layer in onnx_layers(path, table.setting.batch)}
    theirs = {
        name: (layer.kind, layer.kernel, output_sides(layer)) for name, layer in layers.items()
    }
    differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if differing:
        raise DmcpError(
            f"{path} is no network of the table, which is of {_describe(table.network)}: they"
            f" differ in the layer {differing[0]}."
        )
    precision = read_precision(path)
    if table.setting.runtime in ONNX_RUNTIMES and precision != table.setting.precision:
        raise DmcpError(
            f"{path} is in {precision or 'an unknown precision'} and the table in"
            f" {table.setting.precision}: build a table in that precision."
        )
    return {name: (layer.in_channels, layer.out_channels) for name, layer in layers.items()}


def _channels(layer: TableLayer, widths: Mapping[str, int], table: LatencyTable) -> tuple[int, int]:
    if (form := layer.form) is not None:
        return form.inputs.at(widths, table.groups), form.outputs.at(widths, table.groups)
    if len(set(zip(layer.in_channels, layer.out_channels, strict=True))) == 1:
        return layer.in_channels[0], layer.out_channels[0]
    raise DmcpError(
        f"How the channels of {layer.name} follow from the plan's groups is not known: export the"
        " plan's network and give its ONNX file."
    )


def _describe(spec: NetworkSpec) -> str:
    size = format_input(spec.input_shape)
    return f"{spec.model} x{spec.width_mult:g} for {spec.num_classes} classes at {size}"
