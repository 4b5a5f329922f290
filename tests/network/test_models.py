"""Models by name, and what is said when one cannot be had."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.models import build_network, model_names
from dmcp_deploy.plan import NetworkSpec

SMALL = (3, 32, 32)


def test_names_are_torchvisions_classification_cnns() -> None:
    names = model_names()
    assert len(names) == 68
    assert {"mobilenet_v2", "resnet50", "inception_v3", "convnext_tiny"} <= set(names)
    assert not {"vit_b_16", "swin_t", "maxvit_t"} & set(names)


def test_a_seed_fixes_the_weights_and_leaves_torchs_own_generator() -> None:
    state = torch.get_rng_state()
    spec = NetworkSpec("tiny_nets:Chain", input_shape=(3, 8, 8))
    one, again, other = (build_network(spec, seed).model.conv1.weight for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_width_multiplier_of_a_model_that_takes_none() -> None:
    full = build_network(NetworkSpec("tiny_nets:Grouped", input_shape=(3, 8, 8)))
    narrow = build_network(NetworkSpec("tiny_nets:Grouped", 0.67, input_shape=(3, 8, 8)))
    assert full.sizes() == {"conv1": 12}
    assert narrow.sizes() == {"conv1": 8}
    assert narrow.model.conv2.groups == 2
    assert narrow.spec.width_mult == 0.67


def test_own_function_gets_what_it_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "nets.py").write_text(
        "from torch import nn\n"
        "def small(num_classes=3, width_mult=1.0):\n"
        "    c = int(8 * width_mult)\n"
        "    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, num_classes)]\n"
        "    return nn.Sequential(nn.Conv2d(3, c, 3), *head)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    network = build_network(NetworkSpec("own_package.nets:small", 2.0, 7, SMALL))
    assert network.sizes() == {"0": 16}
    assert network.model[-1].out_features == 7


def test_timm_networks() -> None:
    network = build_network(NetworkSpec("timm:test_resnet", num_classes=4, input_shape=(1, 32, 32)))
    assert len(network.prunable) == 11
    assert network.model.get_classifier().out_features == 4


def needs_arguments(depth: int) -> nn.Module:
    return nn.Conv2d(3, depth, 1)


def returns_a_number() -> int:
    return 7


class DataDependentRoot(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


HERE = "functions_of_this_file"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests are not on the search path, so this file gets a name of its own."""
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (NetworkSpec("mobilenet_v22"), "no model 'mobilenet_v22'.*did you mean mobilenet_v2"),
        (NetworkSpec("yolo"), "no model 'yolo'.*timm:NAME or package.module:function"),
        (NetworkSpec("timm:resnet5O"), "no timm model 'resnet5O'; did you mean .*resnet50"),
        (NetworkSpec("no_such_package:net"), "cannot be imported: No module named 'no_such_pack"),
        (NetworkSpec(f"{HERE}:return_a_number"), "no function 'return_a_number'; did you"),
        (NetworkSpec(f"{HERE}:"), "is not written as package.module:function"),
        (NetworkSpec(":net"), "is not written as package.module:function"),
        (NetworkSpec(f"{HERE}:SMALL"), "has no function 'SMALL'"),
        (NetworkSpec(f"{HERE}:returns_a_number"), "returned int, and a torch.nn.Module is needed"),
        (NetworkSpec(f"{HERE}:needs_arguments"), "needs depth, and only num_classes and width_m"),
        (NetworkSpec(f"{HERE}:DataDependentRoot"), "cannot be traced, since its control"),
        (NetworkSpec("resnet18", 0.0), "width multiplier 0 must be above zero"),
        (NetworkSpec("resnet18", -1.0), "width multiplier -1 must be above zero"),
        (
            NetworkSpec("tiny_nets:Chain", 1.5),
            "no width multiplier of its own.* at most 1, not 1.5",
        ),
        (NetworkSpec("squeezenet1_1", input_shape=(3, 8, 8)), "does not run on a 3x8x8 input"),
        (NetworkSpec("tiny_nets:Flattened", input_shape=(3, 9, 18)), "give --input "),
        (
            NetworkSpec("tiny_nets:Chain", input_shape=(1, 8, 8)),
            r"reads 3 channels \(conv1 is its first layer\), .* is 1x8x8: give --input 3x8x8",
        ),
        (NetworkSpec("shaped_nets:Meter"), "reads 1 channel .* give --input 1x224x224"),
    ],
    ids=lambda value: value.model if isinstance(value, NetworkSpec) else "",
)
def test_what_is_wrong_with_a_model_is_said_in_a_sentence(spec: NetworkSpec, words: str) -> None:
    with pytest.raises(DmcpError, match=words) as caught:
        build_network(spec)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith((".", "?"))


class Lazy(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d()
        self.depthwise = nn.LazyConv2d(8, 3, groups=8)
        self.head = nn.LazyLinear(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.depthwise(self.norm(self.conv(x))).flatten(1))


class Unreached(Lazy):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))


def test_lazy_layers_get_their_sizes_first_and_the_same_weights_every_time() -> None:
    spec = NetworkSpec(f"{HERE}:Lazy", num_classes=5, input_shape=(3, 8, 8))
    one, again, other = (build_network(spec, seed) for seed in (1, 1, 2))
    assert one.sizes() == {"conv": 8}
    assert one.prunable
    assert type(one.model.head) is nn.Linear
    assert one.model.head.weight.shape == (5, 8 * 4 * 4)
    for name, values in one.model.state_dict().items():
        assert torch.equal(values, again.model.state_dict()[name])
    assert not torch.equal(one.model.conv.weight, other.model.conv.weight)
    assert not one.model.norm.running_mean.any()


def test_lazy_layers_that_get_no_size_are_named() -> None:
    with pytest.raises(DmcpError, match="does not call norm, depthwise, so that these lazy"):
        build_network(NetworkSpec(f"{HERE}:Unreached", num_classes=5, input_shape=(3, 8, 8)))
    with pytest.raises(DmcpError, match=r"does not run on a 3x3x3 input .* lazy layers get no"):
        build_network(NetworkSpec(f"{HERE}:Lazy", num_classes=5, input_shape=(3, 3, 3)))
