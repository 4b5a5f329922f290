"""What a latency table says of a network at other widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dmcp_deploy.bench.tables.model import IntArray, latency_model, table_channels
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
        ms: What it takes, with the kernels that follow it and are no layer.
        is_probed: Whether both widths lie within those of the probes.
    """

    name: str
    in_channels: int
    out_channels: int
    ms: float
    is_probed: bool


@dataclass(frozen=True)
class Prediction:
    """What a network takes.

    Attributes:
        name: The network.
        latency_ms: The middle one of many calls.
        error_ms: What 90% of the errors stay below of networks that were left out.
        undisturbed_ms: The 10th percentile of many calls.
        overhead_ms: What of the latency no layer takes.
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
    def error_share(self) -> float:
        """The relative error that 90% of networks stay below that were left out."""
        return self.error_ms / self.latency_ms

    @property
    def outside(self) -> tuple[str, ...]:
        """Layers whose widths lie outside of the probes'."""
        return tuple(layer.name for layer in self.layers if not layer.is_probed)

    def to_json(self) -> dict[str, Any]:
        """Returns the prediction as JSON values."""
        return {**vars(self), "layers": [dict(vars(layer)) for layer in self.layers]}


class Predictor:
    """Predicts networks from a table by its model."""

    def __init__(self, table: LatencyTable) -> None:
        """Fits the model."""
        self.table = table
        self.model = latency_model(table)

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
        inputs, outputs = np.array([channels[layer.name] for layer in self.table.layers]).T
        model = self.model
        latency_ms = float(model.ms(inputs, outputs))
        layers_ms = model.layers.ms(inputs, outputs)
        return Prediction(
            name=name,
            latency_ms=latency_ms,
            error_ms=latency_ms * model.error_share,
            undisturbed_ms=latency_ms / self.table.usual_factor,
            overhead_ms=model.fixed_ms,
            full_ms=model.full_ms,
            layers=tuple(
                LayerPrediction(layer.name, *channels[layer.name], float(ms), is_probed)
                for layer, ms, is_probed in zip(
                    self.table.layers, layers_ms, self._are_probed(inputs, outputs), strict=True
                )
            ),
        )

    def _are_probed(self, inputs: IntArray, outputs: IntArray) -> list[bool]:
        """Returns for each layer whether its widths lie within those of the probes."""
        sides = zip(table_channels(self.table), (inputs, outputs), strict=True)
        within = [
            (probed.min(axis=0) <= widths) & (widths <= probed.max(axis=0))
            for probed, widths in sides
        ]
        return [bool(both) for both in np.logical_and(*within)]


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
