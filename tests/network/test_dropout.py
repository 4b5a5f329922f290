"""Dropout that is turned off: modules of every kind, and what is said of calls."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.dropout import turn_off_dropout
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import NetworkSpec

IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SPEC = NetworkSpec("dropping", 1.0, 5, (3, 32, 32))


def drop_path() -> nn.Module:
    return pytest.importorskip("timm.layers").DropPath(0.5)


DROPPING = {
    "dropout": lambda: nn.Dropout(0.5),
    "dropout of channels": lambda: nn.Dropout2d(0.5),
    "alpha dropout": lambda: nn.AlphaDropout(0.5),
    "alpha dropout of channels": lambda: nn.FeatureAlphaDropout(0.5),
    "stochastic depth": lambda: StochasticDepth(0.5, "row"),
    "drop path": drop_path,
}


def network_with(drop: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    return nn.Sequential(nn.Conv2d(3, 8, 3), drop, nn.ReLU(), *head)


def is_random(module: nn.Module) -> bool:
    module.train()
    with torch.no_grad():
        one, other = module(IMAGES), module(IMAGES)
    return not torch.equal(one, other)


@pytest.mark.parametrize("kind", DROPPING)
def test_what_drops_at_random_passes_all_on(kind: str) -> None:
    network = trace_network(network_with(DROPPING[kind]()), SPEC)
    assert is_random(Supernet(network))
    assert turn_off_dropout(network) == ()
    assert not is_random(Supernet(network))
    assert not is_random(slice_network(network, {"0": 4}))


def test_mobilenets_classifier_drops_nothing() -> None:
    network = build_network(NetworkSpec("mobilenet_v2", 0.35, 5, (3, 32, 32)))
    assert is_random(network.model)
    assert turn_off_dropout(network) == ()
    assert not is_random(network.model)


class Calling(nn.Module):
    """Drops by functions: in its head for nothing, in `block` in earnest."""

    class Block(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5, self.training)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.block, self.head = nn.Conv2d(3, 8, 3), self.Block(), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.conv(x)).mean((2, 3))
        return self.head(F.dropout(x, p=0.0, training=self.training))


def test_calls_that_drop_are_named() -> None:
    assert turn_off_dropout(trace_network(Calling(), SPEC)) == ("block",)
