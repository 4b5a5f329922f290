"""Layers' channels become groups' widths on any network, and contradictions are named."""

from __future__ import annotations

from collections.abc import Sequence

import odd_nets
import pytest
from tiny_nets import TINY_NETS, Chain, Grouped, Residual, TinyNet, random_widths, traced
from torch import nn

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.published.match import group_widths, match_layers
from dmcp_deploy.published.widths import LayerWidth, PublishedPlan


def shapes(model: nn.Module) -> tuple[LayerWidth, ...]:
    """Returns what timm's text says of a network: the shape of every weight."""
    found = {name: parameter.shape for name, parameter in model.named_parameters()}
    return tuple(
        LayerWidth(name.removesuffix(".weight"), shape[0], shape[1] if len(shape) > 1 else None)
        for name, shape in found.items()
        if name.endswith(".weight")
    )


def widths(network: Network, layers: Sequence[LayerWidth], complete: bool = True) -> dict[str, int]:
    published = PublishedPlan("timm", tuple(layers))
    return group_widths(match_layers(published, network), network, complete)


@pytest.mark.parametrize("net", [*TINY_NETS, *odd_nets.ODD_NETS], ids=lambda net: net.__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_shapes_of_a_sliced_network_give_its_widths_back(net: type[TinyNet], seed: int) -> None:
    network = traced(net)
    drawn = random_widths(network, seed)
    assert widths(network, shapes(slice_network(network, drawn))) == drawn


def changed(layers: Sequence[LayerWidth], name: str, **to: int | None) -> list[LayerWidth]:
    return [
        LayerWidth(item.name, **{"outputs": item.outputs, "inputs": item.inputs, **to})
        if item.name == name
        else item
        for item in layers
    ]


@pytest.mark.parametrize(
    ("net", "name", "to", "named"),
    [
        (Chain, "conv2", {"outputs": 13}, "conv2 keeps 13 channels, and conv2 has 12 (a plan of a"),
        (Chain, "bn1", {"outputs": 7}, "bn1 keeps 7 channels, and conv1, whose channels are the"),
        (Chain, "conv2", {"inputs": 7}, "conv2 reads 7 channels, and by what the other layers"),
        (Chain, "conv1", {"inputs": 4}, "conv1 reads 4 channels, and by what the other layers"),
        (Chain, "classifier", {"inputs": 9}, "classifier reads 9 channels"),
        (Grouped, "conv1", {"outputs": 10}, "conv1 keeps 10 channels, and those of conv1 go 4 at"),
    ],
)
def test_a_number_that_contradicts_the_network_or_another_is_named(
    net: type[TinyNet], name: str, to: dict[str, int], named: str
) -> None:
    network = traced(net)
    with pytest.raises(DmcpError) as caught:
        widths(network, changed(shapes(network.model), name, **to))
    assert str(caught.value).startswith(named)


def test_the_classifiers_outputs_are_classes_and_no_widths() -> None:
    network = traced(Chain)
    other = changed(shapes(network.model), "classifier", outputs=1000)
    assert widths(network, other) == {"conv1": 8, "conv2": 12}


def test_what_must_stay_whole_is_not_narrowed() -> None:
    network = next(
        traced(net) for net in odd_nets.ODD_NETS if any(not g.prunable for g in traced(net).groups)
    )
    group = next(group for group in network.groups if not group.prunable)
    with pytest.raises(DmcpError) as caught:
        widths(network, changed(shapes(network.model), group.name, outputs=group.size - 1))
    whole = f"{group.name} must keep all its {group.size}: {group.reason}."
    assert str(caught.value) == f"{group.name} keeps {group.size - 1} channels, and {whole}"


def test_a_group_that_is_left_out_is_missing_or_whole() -> None:
    network = traced(Residual)
    first, *_ = network.prunable
    rest = [item for item in shapes(network.model) if item.name not in first.layers]
    with pytest.raises(DmcpError, match=rf"it says nothing of {first.name} \(1 in all\)\."):
        widths(network, rest)
    assert first.name not in widths(network, rest, complete=False)


@pytest.mark.parametrize("name", ["conv9", "", "classifier.weight"])
def test_a_layer_that_there_is_not_is_named(name: str) -> None:
    with pytest.raises(DmcpError, match=f"'{name}' is no layer of tiny_nets:Chain"):
        widths(traced(Chain), [LayerWidth(name, 3)])
