"""Epsilons survive the export and the conversion to FP16: flat images have finite logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.precisions import convert
from dmcp_deploy.export.proven import export_proven
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.export.verify import compare_outputs, flat_images, require_finite
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.runtimes.onnxruntime import OnnxSession

SHAPE = (3, 8, 8)


class HandMade(nn.Module):
    """A convolution without bias, so that black stays black, and a norm written by hand."""

    def __init__(self, norm: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.Linear(8, 4), norm

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def length(x: Tensor) -> Tensor:
    return x / (x.norm(dim=1, keepdim=True) + 1e-8)


def standardised(x: Tensor) -> Tensor:
    variance = x.var((2, 3), keepdim=True, unbiased=False)
    return (x - x.mean((2, 3), keepdim=True)) / torch.sqrt(variance + 1e-12)


def root_mean_square(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-9)


def bounded(x: Tensor) -> Tensor:
    return x / x.abs().sum(1, keepdim=True).clamp(min=1e-9)


NORMS = [
    pytest.param(length, id="norm + 1e-8"),
    pytest.param(standardised, id="sqrt(variance + 1e-12)"),
    pytest.param(root_mean_square, id="rsqrt(mean square + 1e-9)", marks=pytest.mark.slow),
    pytest.param(bounded, id="clamp(min=1e-9)", marks=pytest.mark.slow),
    pytest.param(F.normalize, id="F.normalize", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("batch", [None, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", NORMS)
def test_flat_images_have_finite_logits_in_fp32_and_fp16(norm, batch, tmp_path: Path) -> None:
    net = HandMade(norm).eval()
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    spec = NetworkSpec("hand-made", 1.0, 4, SHAPE)
    full, half = tmp_path / "net.onnx", tmp_path / "net.fp16.onnx"
    macs = NetworkCost(trace_network(net, spec)).full_macs
    export_proven(net, full, images=images, macs=macs, batch=batch, opset=20, metadata={})
    raised = convert(full, half, "fp16", None)["raised"]
    assert list(raised.values()) == [2.0**-14]
    for path, tolerance in ((full, 1e-5), (half, 1e-2)):
        with OnnxSession(path, exact=True) as session, torch.no_grad():
            for flat in flat_images((2, *SHAPE)):
                assert np.isfinite(session.run(flat)).all()
            outputs = session.run(images.numpy())
            assert compare_outputs(net(images).numpy(), outputs).max_rel < tolerance


def test_a_factor_near_one_is_kept(tmp_path: Path) -> None:
    net = HandMade(lambda x: x.relu() * (1 + 1e-6) + 0).eval()
    export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE)
    graph = onnx.load(tmp_path / "net.onnx").graph
    numbers = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    assert [n.item() for n in numbers if n.ndim == 0] == [pytest.approx(1 + 1e-6, rel=1e-7)]
    assert [node.op_type for node in graph.node].count("Add") == 0  # the true 0 goes
    assert [value.name for value in graph.input] == ["input"]


def test_values_that_are_lost_on_flat_images_alone_are_told() -> None:
    truth, lost = np.zeros((2, 4)), np.zeros((2, 4))
    lost[0, 1], lost[1, 2] = np.nan, np.inf
    with pytest.raises(DmcpError, match="images of one colour: 2 of 8 values"):
        require_finite(truth, lost, "One and the other")
    require_finite(lost, lost, "where the reference has none either")
