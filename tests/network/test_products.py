"""Products with stored factors count, whatever operation writes them: in torch and in ONNX."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from product_nets import INPUT, STEM, WRITTEN, Product
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.models import build_network, model_names
from dmcp_deploy.onnxgraph.cost import onnx_cost
from dmcp_deploy.plan import NetworkSpec

ALL = pytest.mark.parametrize("name", WRITTEN)


def count(model: nn.Module) -> int:
    return NetworkCost(trace_network(model, NetworkSpec("product", 1.0, 5, INPUT))).full_macs


def product(name: str) -> nn.Module:
    torch.manual_seed(0)
    return Product(WRITTEN[name]).eval().requires_grad_(False)


@ALL
def test_a_product_counts_as_derived_by_hand(name: str) -> None:
    assert count(product(name)) == STEM + WRITTEN[name].macs


class Mix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.factor


class Mixed(nn.Module):
    """Calls one module of a stored factor twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 8, 1), Mix(), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.mix(self.stem(x).mean((2, 3)))))


def test_a_module_that_is_called_twice_is_one_line() -> None:
    cost = NetworkCost(trace_network(Mixed().eval(), NetworkSpec("mixed", 1.0, 5, INPUT)))
    (mixed,) = (layer for layer in cost.layer_costs({}) if layer.kind == "other")
    assert (mixed.name, mixed.macs, mixed.params) == ("mix", 2 * 8 * 8, 8 * 8)


@ALL
def test_it_counts_as_torch_does_but_for_what_is_no_layer(name: str) -> None:
    written, model = WRITTEN[name], product(name)
    if written.uncounted is None:
        pytest.skip("torch's counter does not know the operation, or counts a known state")
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            model(torch.randn(2, *INPUT))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert counter.get_total_flops() == 2 * 2 * (STEM + written.macs + written.uncounted)


class Looks(nn.Module):
    """Cannot be run without data."""

    def forward(self, x: Tensor) -> Tensor:
        return -x if float(x.detach().sum()) > 1e9 else x


class Adds(nn.Module):
    """Cannot be run on copies without data: its tensor is made as it runs."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(1)


@ALL
@pytest.mark.parametrize("first", [Looks, Adds])
def test_it_counts_the_same_where_data_is_needed(name: str, first: type[nn.Module]) -> None:
    assert count(nn.Sequential(first(), product(name))) == STEM + WRITTEN[name].macs


#: Smaller networks of timm that multiply in ways of their own.
TIMM = (
    *("convnext_atto", "ghostnet_050", "hardcorenas_a", "hrnet_w18_small"),
    *("mixnet_s", "mobilevit_xxs", "nf_regnet_b0", "repvgg_a0", "rexnet_100", "skresnet18"),
    *("resnest14d", "regnetx_002", "efficientvit_b0", "cspresnet50", "dpn48b"),
)
#: Networks of torchvision with heads for training alone.
AUXILIARY = ("googlenet", "inception_v3")
#: Those whose widths are worked out on tensors, so that they cannot be made without data; the
#: others of the family have the same operations.
WITH_DATA = ("regnet_x_400mf", "regnet_y_400mf")
TORCHVISION = [n for n in model_names() if not n.startswith("regnet_") or n in WITH_DATA]
QUICK = ("einsum of three", "a code of positions")
EXPORTED = [
    pytest.param(name, batch, marks=() if name in QUICK and batch else pytest.mark.slow)
    for name in WRITTEN
    for batch in (1, None)
]


def stock(model: str) -> nn.Module:
    """Returns a library's network for 10 classes, without data where that goes."""
    with torch.device("cpu" if model in WITH_DATA else "meta"):
        if model.startswith("timm:"):
            timm = pytest.importorskip("timm")
            return timm.create_model(model.removeprefix("timm:"), num_classes=10)
        options = {"aux_logits": False, "init_weights": False} if model in AUXILIARY else {}
        return models.get_model(model, num_classes=10, **options).to("meta")


@pytest.mark.slow
@pytest.mark.parametrize("model", [*TORCHVISION, *(f"timm:{name}" for name in TIMM)])
def test_stock_networks_count_as_torch_does(model: str) -> None:
    shape = (3, 96, 96) if model == "inception_v3" else (3, 64, 64)
    net = stock(model).eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        net(torch.empty(2, *shape))
    kinds = {str(kind): flops for kind, flops in counter.get_flop_counts()["Global"].items()}
    layers = sum(kinds.get(f"aten.{name}", 0) for name in ("convolution", "mm", "addmm"))
    counted = NetworkCost(trace_network(net, NetworkSpec(model, 1.0, 10, shape))).full_macs
    assert 2 * 2 * counted == layers


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, None])
def test_a_branch_that_the_exporter_folds_counts_nowhere(batch: int | None, tmp_path: Path) -> None:
    # Its code of positions goes through a convolution of 64 channels to 88 on 4x4 places.
    pytest.importorskip("timm")
    spec = NetworkSpec("timm:edgenext_xx_small", 1.0, 10, (3, 64, 64))
    network = build_network(spec)
    code = network.layers["stages.1.blocks.1.pos_embd.token_projection"]
    assert (code.kind, code.macs_per_pair) == ("conv", 0)
    export_onnx(network.model, tmp_path / "net.onnx", input_shape=spec.input_shape, batch=batch)
    assert onnx_cost(tmp_path / "net.onnx").macs == NetworkCost(network).full_macs


@pytest.mark.parametrize(("name", "batch"), EXPORTED)
def test_the_exported_graph_counts_the_same(name: str, batch: int | None, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    export_onnx(product(name), path, input_shape=INPUT, batch=batch)
    assert onnx_cost(path).macs == STEM + WRITTEN[name].macs
