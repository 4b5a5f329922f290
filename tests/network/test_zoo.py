"""Whole libraries of networks: groups found, sliced to half the MACs, equal to the supernet.

The equality is a matter of the rules of layers: one network of every family shows it. For the
others the shapes tell that no layer was forgotten; the night computes them all.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from closeness import difference
from search_problems import macs_limits
from tiny_nets import randomise_norms
from torch.nn import init
from torchvision import models

from dmcp_deploy.export.slice import TOLERANCE
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.models import build_network, model_names
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search.fit import fit_widths, width_grid
from dmcp_deploy.search.space import search_space

pytestmark = pytest.mark.slow

#: torchvision network -> the groups that stay whole, and why; of all others every group narrows.
#: The shuffles of ShuffleNetV2 tie channels in cycles, and some stages are one cycle.
PINNED = {
    "shufflenet_v2_x0_5": {"stage3.0.branch1.2"},
    "shufflenet_v2_x1_0": {"stage2.0.branch1.2", "stage3.0.branch1.2"},
    "shufflenet_v2_x1_5": {"stage3.0.branch1.2"},
    "shufflenet_v2_x2_0": {"stage2.0.branch1.2", "stage3.0.branch1.2"},
}
#: One network of each family of torchvision.
FAMILIES = {
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s"),
    *("googlenet", "inception_v3", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"),
    *("regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5"),
    *("squeezenet1_1", "vgg11_bn"),
}
NIGHTLY = pytest.mark.nightly("its family has a smaller network that is computed every time")

#: The pictures that are compared have 64 pixels, but where poolings leave nothing of that.
SIDES = {"inception_v3": 96}

#: timm network -> input size, groups; all of them narrow.
TIMM = {
    "resnet26d": (64, 23),
    "seresnext26t_32x4d": (64, 23),
    "resnetv2_50": (64, 37),
    "res2net50_26w_4s": (64, 93),
    "dla34": (64, 25),
    "hrnet_w18_small": (64, 45),
    "vovnet39a": (64, 39),
    "ghostnet_100": (64, 31),
    "mobilenetv4_conv_small": (64, 21),
    "efficientnet_lite0": (64, 24),
    "mixnet_s": (64, 72),
    "regnetz_b16": (64, 50),
    "repvgg_a0": (64, 5),
    "fastvit_t8": (64, 12),
    "convnext_atto": (64, 16),
    "convnextv2_atto": (64, 16),
    "nf_resnet50": (64, 37),
    "cspdarknet53": (64, 49),
    "xception41": (64, 33),
    "selecsls42": (64, 41),
    "dpn68": (64, 53),
    "rdnet_tiny": (64, 49),
    "mobilevit_xxs": (64, 43),
    "rexnet_100": (64, 46),
    "hgnetv2_b0": (64, 30),
    "vit_tiny_patch16_224": (224, 25),
    "resnetblur50": (64, 37),
    "poolformer_s12": (64, 16),
    "levit_conv_128s": (224, 28),
    "skresnet18": (64, 24),
    "dm_nfnet_f0": (64, 35),
    "cspresnet50": (64, 46),
    "edgenext_xx_small": (64, 20),
    "efficientvit_b0": (64, 21),
    "resnest14d": (64, 19),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    gc.collect()


def whole_zoo() -> list[Any]:
    return [pytest.param(name, marks=() if name in FAMILIES else NIGHTLY) for name in model_names()]


@pytest.mark.parametrize("name", whole_zoo())
def test_torchvision_networks(name: str) -> None:
    network = published_network(name)
    check_equal(network, half_widths(network), SIDES.get(name, 64))


@pytest.mark.parametrize("name", [name for name in model_names() if name not in FAMILIES])
def test_shapes_of_torchvision_networks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (name for name in dir(init) if name.endswith("_") and name[0] != "_"):
        monkeypatch.setattr(init, function, lambda tensor, *args, **options: tensor)
    network = published_network(name)
    network.model.to("meta")
    check_shapes(network, half_widths(network), SIDES.get(name, 64))


def published_network(name: str) -> Network:
    """Returns a network after checking its groups and what its publication says of its cost."""
    published = next(iter(models.get_model_weights(name)))
    side = published.transforms.keywords["crop_size"]
    network = build_network(NetworkSpec(name, input_shape=(3, side, side)))
    pinned = {group.name for group in network.groups if not group.prunable}
    assert pinned == PINNED.get(name, set())
    assert len(network.prunable) >= 7
    assert not network.opaque
    assert not network.fixed_macs
    assert all(group.layers for group in network.groups)
    assert round(NetworkCost(network).full_macs / 1e9, 3) == published.meta["_ops"]
    # The published parameters of inception_v3 include a head that exists in training alone.
    if name != "inception_v3":
        assert NetworkCost(network).params({}) == published.meta["num_params"]
    return network


@pytest.mark.parametrize("name", TIMM)
def test_timm_networks(name: str) -> None:
    size, groups = TIMM[name]
    spec = NetworkSpec(f"timm:{name}", num_classes=10, input_shape=(3, size, size))
    network = build_network(spec)
    assert {group.name: group.reason for group in network.groups if group.reason} == {}
    assert len(network.groups) == groups
    assert NetworkCost(network).full_macs > 10**6
    check_equal(network, half_widths(network), size)


def half_widths(network: Network) -> dict[str, int]:
    """Returns the uniform plan of half the MACs, or of the fewest where not all can be narrowed."""
    cost, space = NetworkCost(network), search_space(network)
    grid = width_grid(space, 1)
    budget = cost.full_macs // 2
    if cost.macs(grid.low) >= budget:
        return space.widths(grid.low)
    units = fit_widths(macs_limits(network, budget), grid, space.full.astype(np.float64))
    assert 0.98 * budget <= cost.macs(units) <= budget
    return space.widths(units)


def check_equal(network: Network, widths: dict[str, int], side: int) -> None:
    """Checks that supernet and sliced network compute the same, on a batch of one picture."""
    randomise_norms(network.model.eval())
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(Supernet(network)(images), network.model(images))
    narrow, dense = both(network, widths, images)
    assert difference(dense, narrow) < TOLERANCE


def check_shapes(network: Network, widths: dict[str, int], side: int) -> None:
    """Checks that both can be computed at all: every layer fits the ones before it."""
    network.model.eval()
    narrow, dense = both(network, widths, torch.empty(1, 3, side, side, device="meta"))
    assert narrow.shape == dense.shape == (1, network.spec.num_classes)


def both(
    network: Network, widths: dict[str, int], images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the logits of the supernet and of the sliced network; counts its parameters."""
    with torch.no_grad():
        dense = slice_network(network, widths)
        assert sum(p.numel() for p in dense.parameters()) == NetworkCost(network).params(widths)
        return Supernet(network)(images, widths), dense(images)
