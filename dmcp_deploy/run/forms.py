"""How channels follow from the widths of a network's groups, as tables and templates hold it."""

from __future__ import annotations

from collections.abc import Sequence

from dmcp_deploy.bench.tables.probes import LayerForm, ProbedGroup, WidthForm
from dmcp_deploy.network.graph import Layer, Network
from dmcp_deploy.network.linear import Side, linear_widths


def probed_groups(network: Network) -> dict[str, ProbedGroup]:
    """Returns the groups of a network that may be narrowed, by name."""
    return {group.name: ProbedGroup(group.size, group.unit) for group in network.prunable}


def layer_form(layer: Layer, network: Network) -> LayerForm:
    """Returns how a layer's channels follow from the groups."""
    sides = (layer.inputs, layer.in_channels), (layer.outputs, layer.out_channels)
    return LayerForm(*_forms(network, sides))


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
    return [*groups, *_forms(network, [(each, 0) for each in units if each is not None])]


def _forms(network: Network, sides: Sequence[Side]) -> list[WidthForm]:
    widths, names = linear_widths(network, sides), [group.name for group in network.prunable]
    return [
        WidthForm(fixed, {name: added for name, added in zip(names, row, strict=True) if added})
        for fixed, row in zip(widths.fixed.tolist(), widths.slope.tolist(), strict=True)
    ]
