"""How channels follow from the widths of a network's groups, as tables and templates hold it."""

from __future__ import annotations

import numpy as np

from dmcp_deploy.bench.tables.probes import LayerForm, ProbedGroup, WidthForm
from dmcp_deploy.network.graph import Layer, Network, Units


def probed_groups(network: Network) -> dict[str, ProbedGroup]:
    """Returns the groups of a network that may be narrowed, by name."""
    return {group.name: ProbedGroup(group.size, group.unit) for group in network.prunable}


def layer_form(layer: Layer, network: Network) -> LayerForm:
    """Returns how a layer's channels follow from the groups."""
    return LayerForm(
        _channels(layer.inputs, layer.in_channels, network),
        _channels(layer.outputs, layer.out_channels, network),
    )


def all_forms(network: Network) -> list[WidthForm]:
    """Returns all that a network counts its channels by: groups, layers, values, parameters."""
    layers = network.layers.values()
    units = [
        *(units for layer in layers for units in (layer.outputs, layer.inputs)),
        *(units for layer in layers for cuts in layer.cuts.values() for _, units in cuts),
        *(units for _, units in network.parameters.values()),
        *(units for units, _ in network.gates.values()),
    ]
    groups = [WidthForm(0, {group.name: group.unit}) for group in network.prunable]
    return [*groups, *(_form(each, network) for each in units if each is not None)]


def _channels(units: Units | None, whole: int, network: Network) -> WidthForm:
    return WidthForm(whole, {}) if units is None else _form(units, network)


def _form(units: Units, network: Network) -> WidthForm:
    counts = np.bincount(units[units >= 0], minlength=network.unit_count)
    per_unit = {group.name: int(counts[group.first]) for group in network.prunable}
    fixed = int((units < 0).sum())
    return WidthForm(fixed, {name: number for name, number in per_unit.items() if number})
