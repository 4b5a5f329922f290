"""From what a published file says of layers to what the groups of a network keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.graph import Group, Layer, Network, Units
from dmcp_deploy.network.layers import WEIGHTED
from dmcp_deploy.network.selection import Selection
from dmcp_deploy.published.widths import LayerWidth, PublishedPlan
from dmcp_deploy.registry import near_matches

#: What a file says of a layer, and the network's layer that it means.
Match = tuple[LayerWidth, Layer]


def match_layers(published: PublishedPlan, network: Network) -> list[Match]:
    """Returns what a file says of each layer of a network, with that layer.

    Layers are found by their names; where the file names them otherwise, convolutions by their
    order. The classifier's outputs are not part of it. Modules that cannot narrow are left out.

    Raises:
        DmcpError: The network has no such layer, or another number of convolutions.
    """
    names = _renamed_convolutions(published, network)
    head = _head(network)
    if published.head is not None and head is not None:
        names[published.head] = head
    modules = network.model.named_modules()
    known = {name for name, module in modules if not any(True for _ in module.children())}
    known.update(network.layers)
    matches = []
    for item in published.layers:
        name = names.get(item.name, "" if published.order else item.name)
        if name not in known:
            raise _unknown(item.name, network, published)
        if not published.complete:
            _check_narrows(item, name, network, head)
        if name in network.layers:
            stated = LayerWidth(item.name, None, item.inputs) if name == head else item
            matches.append((stated, network.layers[name]))
    return matches


def _check_narrows(item: LayerWidth, name: str, network: Network, head: str | None) -> None:
    """Checks that what one wrote down of a single layer has an effect."""
    if name not in network.layers:
        raise DmcpError(f"{name!r} has no channels of its own: name the layer in front of it.")
    classes = network.spec.num_classes
    if name == head and item.outputs not in (None, classes):
        raise DmcpError(
            f"{name} keeps {item.outputs} channels, and these are the {classes} classes."
        )


def group_widths(matches: list[Match], network: Network, complete: bool) -> dict[str, int]:
    """Returns the channels that each prunable group keeps.

    Args:
        matches: What is said of layers, with the layers.
        network: The full network.
        complete: Whether every group must be spoken of; if not, the others stay whole.

    Raises:
        DmcpError: Layers contradict one another, keep more than there is, narrow what must stay
            whole, or leave a group open.
    """
    widths: dict[str, int] = {}
    speakers: dict[str, str] = {}
    for item, layer in matches:
        if item.outputs is None:
            continue
        _check_room(item, layer, network)
        group = _single_group(layer, network)
        if group is None:
            continue
        width = _group_width(item, layer, group)
        if widths.setdefault(group.name, width) != width:
            raise DmcpError(
                f"{item.name} keeps {item.outputs} channels, and {speakers[group.name]}, whose"
                f" channels are the same ones, keeps {widths[group.name]}."
            )
        speakers.setdefault(group.name, item.name)
    missing = [group.name for group in network.prunable if group.name not in widths]
    if complete and missing:
        raise DmcpError(f"it says nothing of {', '.join(missing[:3])} ({len(missing)} in all).")
    _check_all(matches, network, widths)
    return widths


def _renamed_convolutions(published: PublishedPlan, network: Network) -> dict[str, str]:
    """Returns a file's names of convolutions -> the network's, where they differ."""
    if published.order is None:
        return {}
    convs = [layer.name for layer in network.layers.values() if layer.kind == "conv"]
    if len(convs) != len(published.order):
        raise DmcpError(
            f"it describes a network of {len(published.order)} convolutions, and"
            f" {network.spec.model} has {len(convs)}."
        )
    pairs = zip(published.order, convs, strict=True)
    return {name: conv for names, conv in pairs for name in names}


def _head(network: Network) -> str | None:
    """Returns the classifier: the last layer, if its outputs are the network's."""
    layers = [layer for layer in network.layers.values() if layer.kind in WEIGHTED]
    last = layers[-1] if layers else None
    if last is None or last.outputs is None or last.outputs.max() >= 0:
        return None
    return last.name if last.out_channels == network.spec.num_classes else None


def _unknown(name: str, network: Network, published: PublishedPlan) -> DmcpError:
    known = [first for first, *_ in published.order] if published.order else [*network.layers]
    whose = "the network it describes" if published.order else network.spec.model
    return DmcpError(f"{name!r} is no layer of {whose}{near_matches(name, known)}")


def _written_units(layer: Layer) -> Units | None:
    """Returns the units of the channels that a layer writes, or normalises."""
    return layer.inputs if layer.outputs is None else layer.outputs


def _single_group(layer: Layer, network: Network) -> Group | None:
    """Returns the group that all channels of a layer belong to, if there is just one."""
    units = _written_units(layer)
    if units is None or units.min() < 0:
        return None
    first, last = units.min(), units.max()
    holders = (g for g in network.prunable if g.first <= first and last < g.first + g.units)
    return next(holders, None)


def _check_room(item: LayerWidth, layer: Layer, network: Network) -> None:
    if item.outputs is not None and item.outputs > layer.out_channels:
        raise DmcpError(
            f"{item.name} keeps {item.outputs} channels, and {layer.name} has"
            f" {layer.out_channels} (a plan of a wider network takes its --width-mult)."
        )
    units = _written_units(layer)
    if units is not None and units.max() < 0 and item.outputs != layer.out_channels:
        raise DmcpError(
            f"{item.name} keeps {item.outputs} channels, and {layer.name} must keep all its"
            f" {layer.out_channels}: {_pin_reason(layer.name, network)}."
        )


def _pin_reason(layer: str, network: Network) -> str:
    pinned = (group for group in network.groups if layer in group.layers and group.reason)
    return next((str(group.reason) for group in pinned), "they are the network's input or output")


def _group_width(item: LayerWidth, layer: Layer, group: Group) -> int:
    """Returns the channels of a group when a layer that holds it keeps so many of its own."""
    units = _written_units(layer)
    assert units is not None
    assert item.outputs is not None
    per_unit = len(units) // group.units
    if item.outputs % per_unit:
        raise DmcpError(
            f"{item.name} keeps {item.outputs} channels, and those of {layer.name} go"
            f" {per_unit} at a time."
        )
    return item.outputs // per_unit * group.unit


def _check_all(matches: list[Match], network: Network, widths: Mapping[str, int]) -> None:
    """Checks every number in the file against the network at the groups' widths."""
    selection = Selection(network, widths)
    for item, layer in matches:
        for verb, stated, units in _statements(item, layer):
            real = selection.count(units)
            if stated != real:
                raise DmcpError(
                    f"{item.name} {verb} {stated} channels, and by what the other layers keep it"
                    f" {verb} {real}."
                )


def _statements(item: LayerWidth, layer: Layer) -> Iterator[tuple[str, int, np.ndarray]]:
    outputs = _written_units(layer)
    if item.outputs is not None and outputs is not None:
        yield "keeps", item.outputs, outputs
    # A depthwise layer's inputs are its outputs, and not every format states them.
    if item.inputs is not None and layer.inputs is not None and not layer.grouped:
        yield "reads", item.inputs, layer.inputs
