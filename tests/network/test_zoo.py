"""Whole libraries of networks: groups found, sliced to half the MACs, equal to the supernet."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from closeness import difference
from tiny_nets import randomise_norms
from torchvision import models

from dmcp_deploy.export.slice import TOLERANCE
from dmcp_deploy.network.cost import Cost
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
#: The pictures that are compared have 64 pixels, but where poolings leave nothing of that.
SIDES = {"inception_v3": 96}

#: timm network -> input size, prunable groups, groups kept whole.
TIMM = {
    "resnet26d": (64, 23, 0),
    "seresnext26t_32x4d": (64, 23, 0),
    "resnetv2_50": (64, 37, 0),
    "res2net50_26w_4s": (64, 29, 40),
    "dla34": (64, 25, 0),
    "hrnet_w18_small": (64, 45, 0),
    "vovnet39a": (64, 39, 0),
    "ghostnet_100": (64, 31, 0),
    "mobilenetv4_conv_small": (64, 21, 0),
    "efficientnet_lite0": (64, 24, 0),
    "mixnet_s": (64, 16, 72),
    "regnetz_b16": (64, 50, 0),
    "repvgg_a0": (64, 5, 0),
    "fastvit_t8": (64, 12, 0),
    "convnext_atto": (64, 16, 0),
    "convnextv2_atto": (64, 4, 12),
    "nf_resnet50": (64, 0, 0),
    "cspdarknet53": (64, 39, 28),
    "xception41": (64, 33, 0),
    "selecsls42": (64, 41, 0),
    "dpn68": (64, 23, 26),
    "rdnet_tiny": (64, 49, 0),
    "mobilevit_xxs": (64, 10, 3),
    "rexnet_100": (64, 31, 15),
    "hgnetv2_b0": (64, 30, 0),
    "vit_tiny_patch16_224": (224, 12, 37),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    gc.collect()


@pytest.mark.parametrize("name", model_names())
def test_torchvision_networks(name: str) -> None:
    published = next(iter(models.get_model_weights(name)))
    side = published.transforms.keywords["crop_size"]
    network = build_network(NetworkSpec(name, input_shape=(3, side, side)))
    pinned = {group.name for group in network.groups if not group.prunable}
    assert pinned == PINNED.get(name, set())
    assert len(network.prunable) >= 7
    assert not network.opaque
    assert not network.fixed_macs
    assert all(group.layers for group in network.groups)
    assert round(Cost(network).full_macs / 1e9, 3) == published.meta["_ops"]
    # The published parameters of inception_v3 include a head that exists in training alone.
    if name != "inception_v3":
        assert Cost(network).params({}) == published.meta["num_params"]
    check_half(network, side=SIDES.get(name, 64))


@pytest.mark.parametrize("name", TIMM)
def test_timm_networks(name: str) -> None:
    size, prunable, pinned = TIMM[name]
    spec = NetworkSpec(f"timm:{name}", num_classes=10, input_shape=(3, size, size))
    network = build_network(spec)
    reasons = [group.reason for group in network.groups if not group.prunable]
    assert (len(network.prunable), len(reasons)) == (prunable, pinned)
    assert all(reasons)
    assert Cost(network).full_macs > 10**6
    check_half(network, side=size)


def check_half(network: Network, side: int) -> None:
    """Checks the uniform plan of half the MACs, or of the fewest where not all can be narrowed."""
    randomise_norms(network.model.eval())
    cost, space = Cost(network), search_space(network)
    grid = width_grid(space, 1)
    budget = cost.full_macs // 2
    if cost.macs(grid.low) < budget:
        units = fit_widths(cost, grid, space.full.astype(np.float64), budget)
        assert 0.98 * budget <= cost.macs(units) <= budget
    else:
        units = grid.low
    widths = space.widths(units)
    assert slicing_error(network, widths, side) < TOLERANCE


def slicing_error(network: Network, widths: dict[str, int], side: int) -> float:
    """Returns the largest difference between supernet and sliced network, relative."""
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    supernet = Supernet(network)
    with torch.no_grad():
        assert torch.equal(supernet(images), network.model(images))
        narrow = supernet(images, widths)
        dense = slice_network(network, widths)
        assert sum(p.numel() for p in dense.parameters()) == Cost(network).params(widths)
        return difference(dense(images), narrow)
