"""An oracle: the layers that Torch-Pruning's dependency graph couples are those of our groups."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.models import build_network
from dmcp_deploy.plan import NetworkSpec

torch_pruning = pytest.importorskip("torch_pruning")
pytestmark = pytest.mark.slow

NETWORKS = [
    *("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"),
    *("densenet121", "vgg11_bn", "squeezenet1_1", "googlenet", "inception_v3", "mnasnet0_5"),
    *("convnext_tiny", "timm:resnetv2_50", "timm:hrnet_w18_small", "timm:dla34"),
    *("timm:ghostnet_100", "timm:xception41", "timm:vovnet39a"),
]
#: Torch-Pruning narrows every convolution group of a grouped convolution by itself, so that its
#: inputs and its outputs are two groups of its own. Here whole convolution groups are dropped,
#: which couples both sides: one of our groups is several of theirs. (Depthwise ones agree.)
GROUPED = ["resnext50_32x4d", "regnet_x_400mf", "regnet_y_400mf"]


@pytest.mark.parametrize("name", NETWORKS)
def test_coupled_layers_agree(name: str) -> None:
    network, theirs = both(name)
    for group in network.prunable:
        for layer in weighted(network, group.layers):
            assert theirs.coupled(layer) == set(group.layers)


@pytest.mark.parametrize("name", GROUPED)
def test_groups_across_a_grouped_convolution_are_unions(name: str) -> None:
    network, theirs = both(name)
    joined = 0
    for group in network.prunable:
        parts = {frozenset(theirs.coupled(la)) for la in weighted(network, group.layers)}
        assert set().union(*parts) == set(group.layers)
        grouped = [la for la in group.layers if is_grouped(network.model.get_submodule(la))]
        assert len(parts) <= 1 + len(grouped)
        joined += len(parts) > 1
    assert joined


class Oracle:
    def __init__(self, network: Network) -> None:
        image = torch.randn(1, *network.spec.input_shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph()
            self._graph = graph.build_dependency(network.model, example_inputs=image)
        self._names = {module: name for name, module in network.model.named_modules()}
        self._modules = dict(network.model.named_modules())

    def coupled(self, layer: str) -> set[str]:
        """Returns the modules that lose output channels with a layer, itself included."""
        module = self._modules[layer]
        prune = self._graph.get_pruner_of_module(module).prune_out_channels
        channels = list(range(self._graph.get_out_channels(module)))
        return {
            self._names[dependency.target.module]
            for dependency, _ in self._graph.get_pruning_group(module, prune, channels)
            if self._graph.is_out_channel_pruning_fn(dependency.handler)
            and dependency.target.module in self._names
        }


def both(name: str) -> tuple[Network, Oracle]:
    network = build_network(NetworkSpec(name, num_classes=10, input_shape=(3, 128, 128)))
    network.model.eval()
    assert_all_layers_are_grouped(network)
    return network, Oracle(network)


def assert_all_layers_are_grouped(network: Network) -> None:
    """Checks that only the layer that makes the logits is in no group."""
    listed = {layer for group in network.groups for layer in group.layers}
    made = [n for n, m in network.model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    alone = [network.model.get_submodule(layer) for layer in made if layer not in listed]
    assert [layer.weight.shape[0] for layer in alone] == [10]
    assert all(group.prunable for group in network.groups)


def weighted(network: Network, layers: tuple[str, ...]) -> list[str]:
    """Returns those of the layers that produce channels."""
    return [la for la in layers if network.layers[la].kind in ("conv", "linear")]


def is_grouped(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups < module.out_channels
