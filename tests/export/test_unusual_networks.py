"""ONNX Runtime computes what the narrowed network does, whatever its forward pass is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from constant_nets import OPEN_NETS, REWRITTEN_NETS
from odd_nets import OddNet
from tiny_nets import random_keeps, randomise_norms, traced

from dmcp_deploy.export.proven import ONNX_TOLERANCE
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.export.verify import compare_outputs
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.onnxgraph.cost import onnx_cost
from dmcp_deploy.plan import Keep, NetworkSpec
from dmcp_deploy.runtimes.onnxruntime import OnnxSession

pytestmark = pytest.mark.slow

#: timm network -> input size. One of every family that writes numbers of channels down, or looks
#: at all channels.
FAMILIES = {
    **dict.fromkeys(("skresnet18", "res2net50_26w_4s", "resnest14d", "cspresnet50", "dpn68"), 64),
    **dict.fromkeys(("mixnet_s", "nf_resnet50", "edgenext_xx_small", "efficientvit_b0"), 64),
    "mobilevit_xxs": 128,  # at 64 px one token is left, whose softmax is a constant
}


@pytest.mark.parametrize("net", [*REWRITTEN_NETS, *OPEN_NETS], ids=lambda net: net.__name__)
def test_tiny_networks(net: type[OddNet], tmp_path: Path) -> None:
    check_onnx(traced(net), tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_networks_of_timm(name: str, tmp_path: Path) -> None:
    side = FAMILIES[name]
    spec = NetworkSpec(f"timm:{name}", num_classes=10, input_shape=(3, side, side))
    network = build_network(spec)
    randomise_norms(network.model.eval())
    check_onnx(network, tmp_path)


def check_onnx(network: Network, folder: Path) -> None:
    keeps: dict[str, Keep] = random_keeps(network, 0)
    shape = network.spec.input_shape
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = Supernet(network)(images, keeps).numpy()
    path = export_onnx(slice_network(network, keeps), folder / "m.onnx", input_shape=shape).path
    with OnnxSession(path, threads=1) as session:
        assert compare_outputs(logits, session.run(images.numpy())).max_rel < ONNX_TOLERANCE
    widths = {name: len(keep.kept) for name, keep in keeps.items()}
    assert onnx_cost(path).macs == NetworkCost(network).macs_at(widths)
