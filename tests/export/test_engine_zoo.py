"""Known networks, pruned and not, through ONNX to real TensorRT-RTX engines; no GPU is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from benchmarks.variants import whole_and_half
from dmcp_deploy.export.engine import EngineOptions, Origin, build_engine
from dmcp_deploy.export.precisions import Evidence, convert, precision_path
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.network.models import build_network
from dmcp_deploy.onnxgraph.cost import onnx_cost
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.runtimes.engine_record import EngineRecord

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed on this platform")
pytestmark = pytest.mark.slow

ARCHS = ("sm80", "sm86", "sm89", "sm120")

NIGHTLY = pytest.mark.nightly("ten to thirty seconds each, for layers that others have as well")


def some(*every_time: str, nightly: tuple[str, ...]) -> list[Any]:
    return [*every_time, *(pytest.param(name, marks=NIGHTLY) for name in nightly)]


PAPER = some("mobilenet_v2", nightly=("resnet18", "resnet50"))

#: Every time: concatenation and a convolution for a head, shuffled channels, squeeze and excite.
OTHERS = some(
    *("squeezenet1_1", "shufflenet_v2_x1_0", "mobilenet_v3_small"),
    nightly=(
        *("convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3"),
        *("mnasnet0_5", "mobilenet_v3_large", "regnet_x_400mf", "regnet_y_400mf"),
        *("resnext50_32x4d", "vgg11_bn", "wide_resnet50_2", "timm:dla34"),
        *("timm:efficientnet_lite0", "timm:ghostnet_100", "timm:hrnet_w18_small"),
        *("timm:mobilenetv4_conv_small", "timm:repvgg_a0"),
    ),
)


def exported(model: nn.Module, path: Path, side: int) -> Path:
    return export_onnx(model.eval(), path, input_shape=(3, side, side)).path


def built(source: Path, precision: str, side: int, *archs: str) -> EngineRecord:
    path = precision_path(source, source.parent, precision)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((32, 3, side, side), dtype=np.float32)
    convert(source, path, precision, Evidence(images))
    cost = onnx_cost(path)
    options = EngineOptions("tensorrt-rtx", gpu_archs=archs)
    return build_engine(path, source.parent, options, Origin(cost.macs, cost.params))[1]


@pytest.fixture(scope="module", params=PAPER)
def onnx_files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A network of the paper's table, whole and at half of its multiply-adds."""
    folder = tmp_path_factory.mktemp(request.param)
    nets = whole_and_half(request.param, 224)
    return {name: exported(net, folder / f"{name}.onnx", 224) for name, net in nets.items()}


@pytest.mark.slow(seconds=20)
def test_the_papers_networks_become_engines_in_their_precisions(
    onnx_files: dict[str, Path],
) -> None:
    records = {
        (name, precision): built(source, precision, 224, *archs)
        for name, source in onnx_files.items()
        for precision, archs in (("fp32", ARCHS), ("fp16", ARCHS), ("int8", ("sm86", "sm89")))
    }
    for name, source in onnx_files.items():
        stored = onnx_cost(source).weight_bytes
        single, half = records[name, "fp32"], records[name, "fp16"]
        assert set(single.layer_precisions) == {"fp32"}
        assert half.layer_precisions["fp16"] > 0.9 * sum(half.layer_precisions.values())
        # An engine's weights are its plan's: nothing is masked, nothing stays whole.
        assert single.weight_bytes == pytest.approx(stored, rel=0.05)
        assert half.weight_bytes == pytest.approx(stored / 2, rel=0.15)
        weighted = records[name, "int8"].layer_precisions["int8"]
        assert weighted >= 20
    assert records["half", "fp32"].weight_bytes < 0.8 * records["whole", "fp32"].weight_bytes


@pytest.mark.parametrize("model", OTHERS)
def test_other_networks_become_engines(tmp_path: Path, model: str) -> None:
    side = 128 if model == "inception_v3" else 96
    # Of 129M weights of VGG nearly all lie in two linear layers, which take as long as all others.
    width = 0.25 if model.startswith("vgg") else 1.0
    network = build_network(NetworkSpec(model, width, 10, (3, side, side)))
    source = exported(network.model, tmp_path / "net.onnx", side)
    for precision in ("fp32", "fp16", "int8"):
        record = built(source, precision, side, "sm86")
        assert record.precision == precision
        assert record.layer_precisions[precision] >= 1
