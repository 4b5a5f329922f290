"""Running statistics: who keeps them, what a pass of the supernet leaves alone, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from closeness import difference
from dynamic_nets import SHAPE, Between, TwoConvs, trace
from torch import Tensor, nn

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.supernet import Supernet


def pictures() -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))


def with_module(norm: nn.Module) -> nn.Module:
    net = Between(lambda net, x: net.norm(x))
    net.norm = norm
    return net


def batch_norm(net: Any, x: Tensor) -> Tensor:
    return F.batch_norm(x, net.mean, net.var, training=net.training)


def instance_norm(net: Any, x: Tensor) -> Tensor:
    return F.instance_norm(x, net.mean, net.var, use_input_stats=net.training)


class Opaque(nn.Module):
    """Norms behind control flow that depends on data."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.BatchNorm2d(8), nn.InstanceNorm2d(8, track_running_stats=True)
        self.register_buffer("running_mean", torch.zeros(8))
        self.register_buffer("running_var", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.sum() > 0 else -x
        x = F.batch_norm(x, self.running_mean, self.running_var, training=self.training)
        return self.two(self.one(x))


NETS = [
    lambda: with_module(nn.BatchNorm2d(8)),
    lambda: with_module(nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
    lambda: with_module(Opaque()),
    lambda: Between(batch_norm),
    lambda: Between(instance_norm),
]


@pytest.mark.parametrize("net", NETS)
def test_a_training_pass_of_the_supernet_moves_no_statistics(net: Any) -> None:
    network = trace(net())
    model, images = network.model.train(), pictures()
    before = {name: value.clone() for name, value in model.named_buffers()}
    logits = Supernet(network)(images)
    logits.sum().backward()
    widths = {group.name: group.size // 2 for group in network.prunable}
    Supernet(network)(images, widths)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    # It normalises by the batch, as the model does, which moves them.
    assert difference(model(images), logits) < 1e-6
    assert any(not torch.equal(value, before[name]) for name, value in model.named_buffers())


@pytest.mark.parametrize(
    "net",
    [
        lambda: with_module(nn.BatchNorm2d(8, track_running_stats=False)),
        lambda: Between(lambda net, x: F.batch_norm(x, None, None, training=True)),
        lambda: Between(lambda net, x: F.batch_norm(x, net.mean, net.var, training=True)),
    ],
)
def test_a_norm_that_makes_logits_depend_on_the_batch_is_refused(net: Any) -> None:
    words = "keeps no running statistics, so that an image's logits depend on the others"
    with pytest.raises(DmcpError, match=f"norm.* {words}.*track_running_stats=True"):
        trace(net())


def test_norms_of_single_images_need_no_statistics() -> None:
    network = trace(with_module(nn.InstanceNorm2d(8)))
    images = pictures()
    with torch.no_grad():
        assert difference(network.model.eval()(images)[:1], network.model(images[:1])) < 1e-6


def test_a_dead_norm_without_statistics_is_nobodys_business() -> None:
    class Dead(TwoConvs):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(8, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.early(x)
            self.norm(x)
            return self.late(x)

    assert trace(Dead()).dropped == ("norm",)
