"""Templates made of real exports: what they narrow is what an export of the sliced network is."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from attention_nets import Attention
from constant_nets import IndexByNumber, SelectiveKernel, StoredFactor, WiderIsLonger
from tiny_nets import Dense, GroupNormed, Residual, Separable, Shuffle, random_widths, trace_tiny

from dmcp_deploy.bench.tables.probes import ProbeSet
from dmcp_deploy.bench.tables.template import FILE, narrow_onnx, open_template
from dmcp_deploy.network.models import build_network
from dmcp_deploy.onnxgraph.layers import onnx_layers
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.progress import NoProgress
from dmcp_deploy.run.probes import make_probes
from dmcp_deploy.run.template import NoTemplateError, export_probe, make_template

#: Where no layer reads several groups side by side: narrowed weights are those of the slice.
LEADING = (Residual, Separable, GroupNormed, SelectiveKernel, StoredFactor)
SIDE_BY_SIDE = (Dense, Shuffle, IndexByNumber, Attention)


def logits(path, shape) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    return session.run(None, {"input": images})[0]


def openvino_logits(path, shape) -> np.ndarray:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    return next(iter(compiled(images).values()))


def sizes(path):
    """Returns a file's layers, but for names that the exporter numbers."""
    return [
        (la.kind, la.macs, la.in_channels, la.out_channels, la.bytes) for la in onnx_layers(path)
    ]


def check_narrowed(network, folder, widths, *, leading: bool) -> None:
    shape = network.spec.input_shape
    narrow_onnx(open_template(folder), widths, folder / "narrow.onnx")
    export_probe(network, widths, folder / "exported.onnx")
    onnx.checker.check_model(onnx.load(folder / "narrow.onnx"), full_check=True)
    assert sizes(folder / "narrow.onnx") == sizes(folder / "exported.onnx")
    ours = logits(folder / "narrow.onnx", shape)
    theirs = openvino_logits(folder / "narrow.onnx", shape)
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.abs(ours).max())
    if leading:
        np.testing.assert_allclose(ours, logits(folder / "exported.onnx", shape), atol=1e-4)


@pytest.mark.slow(seconds=8)
@pytest.mark.parametrize("net", [*LEADING, *SIDE_BY_SIDE])
def test_a_narrowed_file_is_the_export_of_the_sliced_network(net, tmp_path):
    network = trace_tiny(net)
    make_template(network, tmp_path)
    for seed in (0, 1):
        widths = random_widths(network, seed)
        check_narrowed(network, tmp_path, widths, leading=net in LEADING)


@pytest.mark.slow(seconds=8)
def test_a_graph_that_does_not_follow_from_the_widths_has_no_template(tmp_path):
    with pytest.raises(NoTemplateError, match="8 operators, and 6 at other widths"):
        make_template(trace_tiny(WiderIsLonger), tmp_path)
    assert not (tmp_path / FILE).exists()


@pytest.mark.slow(seconds=15)
def test_without_a_template_every_probe_is_exported(tmp_path):
    progress = Listening()
    spec = trace_tiny(WiderIsLonger).spec
    probes = make_probes(spec, tmp_path, count=4, align=1, progress=progress)
    assert any("Every probe network is exported on its own" in line for line in progress.said)
    check_layers(probes, tmp_path)
    assert not (tmp_path / FILE).exists()


@pytest.mark.slow(seconds=8)
def test_probes_are_narrowed_and_those_that_are_missing_made_again(tmp_path):
    progress = Listening()
    spec = trace_tiny(SelectiveKernel).spec
    probes = make_probes(spec, tmp_path, count=6, align=1, progress=progress)
    check_layers(probes, tmp_path)
    assert (tmp_path / FILE).exists()
    assert not progress.said
    content = (tmp_path / "probe003.onnx").read_bytes()
    (tmp_path / "probe003.onnx").unlink()
    make_probes(spec, tmp_path, count=6, align=1)
    assert (tmp_path / "probe003.onnx").read_bytes() == content


def check_layers(probes: ProbeSet, folder) -> None:
    """Checks that the layers of probes have the channels that the widths say."""
    for name, path in probes.files(folder).items():
        layers = {layer.name: layer for layer in onnx_layers(path)}
        assert set(probes.forms) <= set(layers)
        for layer, form in probes.forms.items():
            channels = [form.inputs.at(probes.widths[name], probes.groups)]
            channels.append(form.outputs.at(probes.widths[name], probes.groups))
            assert channels == [layers[layer].in_channels, layers[layer].out_channels]


NIGHTLY = pytest.mark.nightly("a minute, for operations that smaller networks have too")


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize(
    "model",
    [
        pytest.param("mobilenet_v2", marks=NIGHTLY),
        "resnet50",
        pytest.param("densenet121", marks=NIGHTLY),
        pytest.param("mobilenet_v3_small", marks=NIGHTLY),
        "shufflenet_v2_x1_0",
    ],
)
def test_networks_of_torchvision_have_templates(model, tmp_path):
    network = build_network(NetworkSpec(model, 1.0, 10, (3, 64, 64)))
    make_template(network, tmp_path)
    check_narrowed(network, tmp_path, random_widths(network, 0), leading=False)


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize(
    "model", ["timm:efficientnet_lite0", pytest.param("timm:convnext_atto", marks=NIGHTLY)]
)
def test_networks_of_timm_have_templates(model, tmp_path):
    pytest.importorskip("timm")
    network = build_network(NetworkSpec(model, 1.0, 10, (3, 64, 64)))
    make_template(network, tmp_path)
    check_narrowed(network, tmp_path, random_widths(network, 0), leading=False)


class Listening(NoProgress):
    """A progress that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)
