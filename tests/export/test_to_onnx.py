from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from closeness import rounding_bound
from torch import nn

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.proven import ONNX_TOLERANCE
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.export.verify import compare_outputs
from dmcp_deploy.onnxgraph.cost import onnx_cost
from dmcp_deploy.runtimes.onnxruntime import OnnxSession

SHAPE = (3, 16, 16)
#: Of the tiny network: 27 products, nine more, 256 pixels pooled, eight products.
ROUNDING = rounding_bound(27 + 9 + 256 + 8)


class TinyResidual(nn.Module):
    """A residual block over a depthwise convolution, with what export must fold or drop."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu6(self.stem(x))
        x = x + self.inner(x)
        return self.head(self.drop(x.mean((2, 3))))


def tiny_residual() -> nn.Module:
    """A network in eval mode whose batch norms hold statistics of their own."""
    torch.manual_seed(0)
    net = TinyResidual()
    for _ in range(3):
        net(torch.randn(8, *SHAPE) * 2 + 1)
    return net.eval()


def images(count: int, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))


def error_to_torch(net: nn.Module, path: Path, x: torch.Tensor) -> float:
    with torch.no_grad():
        truth = net(x).numpy()
    with OnnxSession(path, threads=1) as session:
        return compare_outputs(truth, session.run(x.numpy())).max_rel


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory):
    net = tiny_residual()
    path = tmp_path_factory.mktemp("dynamic") / "sub" / "net.onnx"
    export = export_onnx(net, path, input_shape=SHAPE, metadata={"plan": "sha256:00", "tool": "x"})
    return net, export


def test_the_file_is_what_the_result_says(dynamic):
    _, export = dynamic
    proto = onnx.load(str(export.path))
    onnx.checker.check_model(proto, full_check=True)
    assert [(v.name, dims(v)) for v in proto.graph.input] == [("input", ["batch", 3, 16, 16])]
    assert [(v.name, dims(v)) for v in proto.graph.output] == [("logits", ["batch", 4])]
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 20)]
    assert {p.key: p.value for p in proto.metadata_props} == {"plan": "sha256:00", "tool": "x"}
    assert (export.opset, export.batch, export.simplified) == (20, None, True)
    assert export.nodes == len(proto.graph.node)
    assert export.onnx_bytes == export.path.stat().st_size
    assert export.digest == digest_file(export.path)
    assert [p.name for p in export.path.parent.iterdir()] == ["net.onnx"]


def test_batch_norms_are_folded_and_dropout_is_gone(dynamic):
    _, export = dynamic
    operators = {node.op_type for node in onnx.load(str(export.path)).graph.node}
    assert "Conv" in operators
    assert not operators & {"BatchNormalization", "Dropout", "Constant"}


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_onnx_runtime_gives_the_logits_of_torch_at_any_batch(dynamic, batch):
    net, export = dynamic
    assert error_to_torch(net, export.path, images(batch)) < ROUNDING


def test_the_multiply_adds_counted_in_the_file_are_those_of_the_layers(dynamic):
    _, export = dynamic
    stem, inner, head = 16 * 16 * 8 * 3 * 9, 16 * 16 * 8 * 9, 8 * 4
    assert onnx_cost(export.path).macs == stem + inner + head


def test_the_file_tells_nothing_of_this_machine(dynamic):
    _, export = dynamic
    content = export.path.read_bytes()
    for trace in (b"site-packages", b"test_to_onnx", b"TinyResidual", b"stack_trace"):
        assert trace not in content


def test_a_fixed_batch_and_another_opset(tmp_path):
    net = tiny_residual()
    export = export_onnx(net, tmp_path / "n.onnx", input_shape=SHAPE, batch=3, opset=18)
    proto = onnx.load(str(export.path))
    assert dims(proto.graph.input[0]) == [3, 3, 16, 16]
    assert dims(proto.graph.output[0]) == [3, 4]
    assert (export.batch, export.opset) == (3, 18)
    assert error_to_torch(net, export.path, images(3)) < ROUNDING


def test_the_same_network_gives_the_same_bytes_and_is_left_as_it_was(tmp_path, dynamic):
    net, first = dynamic
    net.train()
    net.stem.eval()
    modes = {name: module.training for name, module in net.named_modules()}
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    again = export_onnx(
        net, tmp_path / "net.onnx", input_shape=SHAPE, metadata={"plan": "sha256:00", "tool": "x"}
    )
    assert again.digest == first.digest
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    net.eval()


def test_export_prints_logs_and_warns_nothing(tmp_path, capfd, caplog):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export_onnx(tiny_residual(), tmp_path / "net.onnx", input_shape=SHAPE)
    out, err = capfd.readouterr()
    told = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert (out, err, told, caught) == ("", "", [], [])


def test_a_channels_last_network_keeps_its_outputs(tmp_path):
    net = tiny_residual().to(memory_format=torch.channels_last)
    export = export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE)
    assert error_to_torch(net, export.path, images(2)) < ROUNDING


def test_without_onnxsim_the_exporters_graph_is_kept_and_said_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    net = tiny_residual()
    export = export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE)
    assert export.simplified is False
    assert error_to_torch(net, export.path, images(2)) < ROUNDING
    assert b"site-packages" not in export.path.read_bytes()


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


class Unconvertible(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svd(x.mean(1))[1]


class Dictionary(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": x.mean((2, 3))}


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, -1)


@pytest.mark.parametrize(
    ("net", "asked", "message"),
    [
        (Branching(), {}, r"exporter cannot take Branching .*data-dependent"),
        (Unconvertible(), {}, r"exporter cannot take Unconvertible .*svd"),
        (Dictionary(), {}, r"returns a dict"),
        (FixedBatch(), {}, r"not a batch to its logits: .*fixed batch size"),
        (nn.Conv2d(4, 2, 1), {}, r"does not run on an input \[2, 3, 16, 16\]: .*4 channels"),
        (nn.Conv2d(3, 2, 1).half(), {}, r"weights are torch.float16, and export takes float32"),
        (nn.Conv2d(3, 2, 1), {"opset": 17}, r"opset is 17.* 18 or newer"),
        (nn.Conv2d(3, 2, 1), {"opset": 99}, r"Opset 99 was asked and the exporter delivered"),
        (nn.Conv2d(3, 2, 1), {"batch": 0}, r"batch size is 0 and must be 1 or more"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence_and_leaves_no_file(
    tmp_path, capfd, net, asked, message
):
    with pytest.raises(DmcpError, match=message) as caught:
        export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE, **asked)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DmcpError, match=r"Cannot write .*net\.onnx"):
        export_onnx(nn.Conv2d(3, 2, 1), tmp_path / "file" / "net.onnx", input_shape=SHAPE)


def test_a_missing_library_is_named_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(DmcpError, match=r"needs onnxscript.*pip install dmcp-deploy\[export\]"):
        export_onnx(nn.Conv2d(3, 2, 1), tmp_path / "net.onnx", input_shape=SHAPE)


#: Every kind of layer with an open batch, and one network with a fixed one.
EXPORTED = {
    *(("squeezenet1_1", None), ("shufflenet_v2_x0_5", None), ("mobilenet_v3_small", None)),
    ("resnet18", 1),
}
NIGHTLY = pytest.mark.nightly("a minute and a half in all, for layers that others have as well")


def networks() -> list[Any]:
    names = ["mobilenet_v2", "resnet18", "squeezenet1_1", "googlenet", "shufflenet_v2_x0_5"]
    names += ["mobilenet_v3_small", "densenet121", "efficientnet_b0", "regnet_y_400mf"]
    pairs = [(name, batch) for name in names for batch in (None, 1)]
    return [pytest.param(*pair, marks=() if pair in EXPORTED else NIGHTLY) for pair in pairs]


@pytest.mark.slow(seconds=5)
@pytest.mark.parametrize(("name", "batch"), networks())
def test_torchvision_networks_agree_with_torch(tmp_path, name, batch):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    extra = {"init_weights": False} if name == "googlenet" else {}
    net = torchvision.models.get_model(name, weights=None, **extra).eval()
    export = export_onnx(net, tmp_path / "net.onnx", input_shape=(3, 64, 64), batch=batch)
    assert export.simplified
    assert error_to_torch(net, export.path, images(batch or 3, (3, 64, 64))) < ONNX_TOLERANCE
