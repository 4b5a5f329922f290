from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from closeness import EPSILON, assert_same, rounding_bound
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tiny_onnx import change_model, save_graph, write_mixed_net, write_tiny_net

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.half_types import HALF_TYPES, half_tensor
from dmcp_deploy.export.lower_precision import overflowing_activations, to_half
from dmcp_deploy.export.verify import TOLERANCES, compare_outputs, require_fidelity
from dmcp_deploy.onnxgraph.file import inspect_onnx
from dmcp_deploy.runtimes.onnxruntime import OnnxSession

IMAGES = np.random.default_rng(0).standard_normal((6, 3, 16, 16), dtype=np.float32)
#: Those of the mixed net that round: convolutions, sums, resizing, pooling, the linear layer.
LAYERS = 7
KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def logits(path: Path, images: np.ndarray = IMAGES) -> np.ndarray:
    with OnnxSession(path, 1) as session:
        return session.run(images)


def weights_of(path: Path) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in onnx.load_model(path).graph.initializer}


def node_of(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if output in node.output)


@pytest.mark.parametrize("batch", ["batch", 6])
def test_a_network_in_fp16_computes_what_it_did_in_fp32(tmp_path, batch):
    source = write_mixed_net(tmp_path / "net.onnx", batch=batch)
    report = to_half(source, tmp_path / "half.onnx", "fp16")
    parity = compare_outputs(logits(source), logits(report.path))
    assert rounding_bound(LAYERS) < parity.max_rel < rounding_bound(LAYERS, "fp16")
    require_fidelity(parity, "fp16", "the fp16 and the fp32 network")
    assert report.digest == digest_file(report.path)
    assert (report.precision, report.opset, report.flushed_weights) == ("fp16", 20, 0)


def test_a_network_in_bf16_computes_what_it_did_in_fp32(tmp_path):
    # ONNX Runtime has no convolution in BF16 on a CPU; ONNX's own evaluator has.
    source = write_mixed_net(tmp_path / "net.onnx")
    report = to_half(source, tmp_path / "half.onnx", "bf16")
    found = ReferenceEvaluator(str(report.path)).run(None, {"input": IMAGES})[0]
    assert found.dtype == np.float32
    parity = compare_outputs(logits(source), found)
    assert EPSILON["fp16"] < parity.max_rel < rounding_bound(LAYERS, "bf16")
    require_fidelity(parity, "bf16", "the bf16 and the fp32 network")
    assert report.opset == 22
    onnx.checker.check_model(str(report.path), full_check=True)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_inputs_and_outputs_stay_fp32_and_weights_do_not(tmp_path, precision):
    source = write_mixed_net(tmp_path / "net.onnx")
    report = to_half(source, tmp_path / "half.onnx", precision)
    before, after = inspect_onnx(source), inspect_onnx(report.path)
    assert (after.input_name, after.input_shape, after.output_name) == (
        before.input_name,
        before.input_shape,
        before.output_name,
    )
    assert after.precision == precision
    half = {"conv", "conv_bias", "depthwise", "linear", "floor", "ceiling"}
    types = {name: tensor.data_type for name, tensor in weights_of(report.path).items()}
    assert types == {
        **dict.fromkeys(half, KINDS[precision]),
        **dict.fromkeys(("scales", "third"), TensorProto.FLOAT),
    }


def test_what_computes_shapes_is_kept_and_nothing_else_is_cast(tmp_path):
    source = write_mixed_net(tmp_path / "net.onnx")
    report = to_half(source, tmp_path / "half.onnx", "fp16")
    model = onnx.load_model(report.path)
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert [(node.input[0], helper.get_node_attr_value(node, "to")) for node in casts] == [
        ("input", TensorProto.FLOAT16),
        ("shape", TensorProto.FLOAT),
        ("thirds", TensorProto.INT64),
        ("logits_fp16", TensorProto.FLOAT),
    ]
    assert {node.name for node in report.kept} == {"sides", "thirds", "sizes"}
    assert {node.reason for node in report.kept} == {"it computes shapes or constants, not images"}
    assert len(report.converted) == 9
    assert "clip" in report.converted
    json.dumps(dataclasses.asdict(report), default=str)


@pytest.mark.parametrize(("precision", "kept"), [("fp16", []), ("bf16", ["TopK"])])
def test_an_operator_without_a_half_form_is_kept_between_casts(tmp_path, precision, kept):
    weights = {"conv": np.ones((4, 3, 1, 1), np.float32)}
    nodes = [
        helper.make_node("Conv", ["input", "conv"], ["maps"]),
        helper.make_node("GlobalMaxPool", ["maps"], ["pooled"]),
        helper.make_node("TopK", ["pooled", "two"], ["best", "index"], axis=1),
        helper.make_node("Cast", ["index"], ["place"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["best", "place"], ["logits"]),
    ]
    path = tmp_path / "net.onnx"
    write_with_ints(path, nodes, weights, {"two": np.array([2])})
    report = to_half(path, tmp_path / "half.onnx", precision)
    assert [node.operator for node in report.kept] == kept
    assert all(node.reason == "TopK of opset 11 takes no bf16" for node in report.kept)
    model = onnx.load_model(report.path)
    place = node_of(model, "place")
    assert helper.get_node_attr_value(place, "to") == KINDS[precision]
    found = ReferenceEvaluator(model).run(None, {"input": IMAGES[:2, :, :8, :8]})[0]
    assert found.dtype == np.float32
    wanted = logits(path, IMAGES[:2, :, :8, :8])
    assert_same(found, wanted, precision=precision, roundings=len(nodes))


def test_an_operator_without_a_schema_is_kept_between_casts(tmp_path):
    nodes = [
        helper.make_node("Conv", ["input", "conv"], ["maps"]),
        helper.make_node("QuickGelu", ["maps"], ["soft"], domain="com.microsoft", alpha=1.7),
        helper.make_node("Relu", ["soft"], ["logits"]),
    ]
    path = tmp_path / "net.onnx"
    graph = helper.make_graph(
        nodes,
        "custom",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [2, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [2, 4, 8, 8])],
        [numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "conv")],
        value_info=[helper.make_tensor_value_info("soft", TensorProto.FLOAT, [2, 4, 8, 8])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    report = to_half(path, tmp_path / "half.onnx", "fp16")
    assert [node.operator for node in report.kept] == ["QuickGelu"]
    assert "no schema says" in report.kept[0].reason
    x = IMAGES[:2, :, :8, :8]
    assert_same(logits(report.path, x), logits(path, x), precision="fp16", roundings=len(nodes))


def test_a_weight_read_in_both_types_is_there_in_both(tmp_path):
    nodes = [
        helper.make_node("Mul", ["input", "weight"], ["scaled"]),
        helper.make_node("Shape", ["scaled"], ["shape"]),
        helper.make_node("Resize", ["scaled", "", "weight"], ["logits"], mode="nearest"),
    ]
    ends = {"inputs": {"input": [1, 3, 16, 4]}, "outputs": {"logits": [1, 3, 32, 8]}}
    weights = {"weight": np.array([1, 1, 2, 2], np.float32)}
    save_graph(tmp_path / "net.onnx", nodes, **ends, weights=weights)
    report = to_half(tmp_path / "net.onnx", tmp_path / "half.onnx", "fp16")
    types = {name: tensor.data_type for name, tensor in weights_of(report.path).items()}
    assert types == {"weight": TensorProto.FLOAT, "weight_fp16": TensorProto.FLOAT16}
    x = IMAGES[:1, :, :, :4]
    assert_same(logits(report.path, x), logits(tmp_path / "net.onnx", x), precision="fp16")


def test_constant_nodes_become_weights(tmp_path):
    tensor = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32))
    nodes = [
        helper.make_node("Constant", [], ["conv"], value=tensor),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Conv", ["input", "conv"], ["maps"]),
        helper.make_node("Mul", ["maps", "half"], ["logits"]),
    ]
    ends = {"inputs": {"input": ["n", 3, 16, 16]}, "outputs": {"logits": ["n", 4, 16, 16]}}
    save_graph(tmp_path / "net.onnx", nodes, **ends, weights={})
    report = to_half(tmp_path / "net.onnx", tmp_path / "half.onnx", "fp16")
    assert {t.data_type for t in weights_of(report.path).values()} == {TensorProto.FLOAT16}
    wanted = logits(tmp_path / "net.onnx")
    assert_same(logits(report.path), wanted, precision="fp16", roundings=len(nodes))


def test_functions_of_the_file_are_converted_too(tmp_path):
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    body = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Mul", ["r", "r"], ["y"])]
    squared = helper.make_function("mine", "Squared", ["x"], ["y"], body, opsets[:1])
    graph = helper.make_graph(
        [helper.make_node("Squared", ["input"], ["logits"], domain="mine")],
        "functions",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3, 16, 16])],
    )
    model = helper.make_model(graph, functions=[squared], opset_imports=opsets, ir_version=10)
    onnx.save_model(model, tmp_path / "net.onnx")
    report = to_half(tmp_path / "net.onnx", tmp_path / "half.onnx", "fp16")
    assert (len(report.converted), report.kept) == (2, ())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_metadata_survives_and_equal_files_give_equal_bytes(tmp_path, precision):
    source = write_mixed_net(tmp_path / "net.onnx", metadata={"model": "mixed", "macs": "7"})
    report = to_half(source, tmp_path / "half.onnx", precision)
    props = {item.key: item.value for item in onnx.load_model(report.path).metadata_props}
    assert props == {"model": "mixed", "macs": "7"}
    code = (
        "import sys; from pathlib import Path;"
        "from dmcp_deploy.export.lower_precision import to_half;"
        "print(to_half(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]).digest)"
    )
    again = subprocess.run(
        [sys.executable, "-c", code, source, tmp_path / "again.onnx", precision],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout.strip() == report.digest
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "half.onnx", "again.onnx"}


def test_a_file_can_be_replaced_by_its_half(tmp_path):
    path = write_mixed_net(tmp_path / "net.onnx")
    size = path.stat().st_size
    to_half(path, path, "fp16")
    assert inspect_onnx(path).precision == "fp16"
    assert path.stat().st_size < size


def test_an_old_opset_is_raised_for_bf16(tmp_path):
    path = write_tiny_net(tmp_path / "net.onnx").path
    change_model(path, opset=13)
    assert to_half(path, tmp_path / "fp16.onnx", "fp16").opset == 13
    report = to_half(path, tmp_path / "bf16.onnx", "bf16")
    assert (report.opset, report.kept) == (22, ())
    model = onnx.load_model(report.path)
    assert model.ir_version >= 10
    ops = Counter(node.op_type for node in model.graph.node)
    assert ops == Counter(Cast=2, Conv=1, Relu=1, GlobalAveragePool=1, Flatten=1, Gemm=1)


def test_values_are_rounded_to_nearest_even():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(4096) * np.geomspace(1e-9, 1e4, 4096)).astype(np.float32)
    special = np.float32([0, -0.0, np.inf, -np.inf, 65504, 1.00390625, 1.01171875, 1e-45])
    values = np.concatenate([values, special])
    for name, dtype in (("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)):
        tensor = numpy_helper.from_array(values, "w")
        converted, flushed = half_tensor(tensor, HALF_TYPES[name], saturate=False)
        with np.errstate(over="ignore"):
            expected = values.astype(dtype)
        np.testing.assert_array_equal(
            np.frombuffer(converted.raw_data, np.uint16), expected.view(np.uint16)
        )
        assert flushed == np.count_nonzero(values) - np.count_nonzero(expected.astype(np.float32))
    nan = numpy_helper.from_array(np.float32([np.nan]), "w")
    bits = half_tensor(nan, HALF_TYPES["bf16"], saturate=False)[0].raw_data
    assert np.isnan(np.frombuffer(bits, ml_dtypes.bfloat16).astype(np.float32))


def write_scaled(path: Path, factor: float, bound: float = 6.0) -> Path:
    conv = np.full((2, 3, 1, 1), factor, np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "conv"], ["maps"]),
        helper.make_node("Clip", ["maps", "floor", "ceiling"], ["active"]),
        helper.make_node("GlobalMaxPool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    weights = {"conv": conv, "floor": np.float32(0), "ceiling": np.float32(bound)}
    ends = {"inputs": {"input": ["n", 3, 16, 16]}, "outputs": {"logits": ["n", 2]}}
    save_graph(path, nodes, **ends, weights=weights)
    return path


def test_a_weight_beyond_fp16_is_named(tmp_path):
    path = write_scaled(tmp_path / "net.onnx", 7e4)
    with pytest.raises(DmcpError, match=r"The weight conv holds 7e\+04, and fp16 ends at 65504"):
        to_half(path, tmp_path / "half.onnx", "fp16")
    assert not (tmp_path / "half.onnx").exists()
    assert to_half(path, tmp_path / "half.onnx", "bf16").precision == "bf16"


def test_weights_below_fp16_are_counted(tmp_path):
    path = write_scaled(tmp_path / "net.onnx", 1e-9)
    assert to_half(path, tmp_path / "half.onnx", "fp16").flushed_weights == 6
    assert to_half(path, tmp_path / "half.onnx", "bf16").flushed_weights == 0


def test_a_bound_beyond_fp16_is_its_largest_value(tmp_path):
    path = write_scaled(tmp_path / "net.onnx", 1.0, bound=float(np.finfo(np.float32).max))
    report = to_half(path, tmp_path / "half.onnx", "fp16")
    assert numpy_helper.to_array(weights_of(report.path)["ceiling"]) == 65504
    assert_same(logits(report.path), logits(path), precision="fp16")


def test_sources_that_are_no_fp32_are_refused(tmp_path):
    source = write_mixed_net(tmp_path / "net.onnx")
    to_half(source, tmp_path / "half.onnx", "fp16")
    with pytest.raises(DmcpError, match=r"half.onnx is fp16 already: give the fp32 file"):
        to_half(tmp_path / "half.onnx", tmp_path / "again.onnx", "bf16")
    with pytest.raises(DmcpError, match="'int8' and must be fp16 or bf16"):
        to_half(source, tmp_path / "again.onnx", "int8")
    with pytest.raises(DmcpError, match="There is no ONNX file"):
        to_half(tmp_path / "none.onnx", tmp_path / "again.onnx", "fp16")
    assert not (tmp_path / "again.onnx").exists()


def test_branches_are_refused(tmp_path):
    def branch(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("Relu", ["input"], [name])], name, [], [out])

    node = helper.make_node(
        "If", ["yes"], ["logits"], "choice", then_branch=branch("a"), else_branch=branch("b")
    )
    ends = {"inputs": {"input": ["n", 3, 16, 16]}, "outputs": {"logits": ["n", 3, 16, 16]}}
    weights = {"yes": np.array(True)}
    save_graph(tmp_path / "net.onnx", [node], **ends, weights=weights)
    with pytest.raises(DmcpError, match=r"has a branch or loop \(If choice\)"):
        to_half(tmp_path / "net.onnx", tmp_path / "half.onnx", "fp16")


@pytest.mark.parametrize("batch", ["batch", 4])
def test_activations_over_a_limit_are_found_by_a_run(tmp_path, batch):
    net = write_tiny_net(tmp_path / "net.onnx", batch=batch)
    images = IMAGES[:5] * np.float32([1, 1, 1, 1, 1e5])[:, None, None, None]
    maps = np.einsum("nchw,oc->nohw", images, net.conv[:, :, 0, 0])
    found = overflowing_activations(net.path, images)
    assert_same(found["maps"], np.abs(maps).max(), roundings=3)
    assert_same(found["active"], maps.max(), roundings=3)
    assert list(found)[:2] == ["maps", "active"]
    assert overflowing_activations(net.path, images[:4]) == {}
    assert set(overflowing_activations(net.path, images[:1], limit=0)) >= {"maps", "logits"}


def test_images_for_the_range_must_fit(tmp_path):
    path = write_tiny_net(tmp_path / "net.onnx").path
    for bad in (IMAGES[:, :2], IMAGES[0], IMAGES.astype(np.float64), IMAGES[:0]):
        with pytest.raises(DmcpError, match=r"takes float32 images \[N, 3, 16, 16\]"):
            overflowing_activations(path, bad)
    with pytest.raises(DmcpError, match="NaN or infinite"):
        overflowing_activations(path, np.full_like(IMAGES, np.nan))


NIGHTLY = pytest.mark.nightly("twenty seconds in all, for layers that the others have as well")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("shufflenet_v2_x0_5", "efficientnet_b0"),
        *(pytest.param(name, marks=NIGHTLY) for name in ("mobilenet_v2", "resnet18")),
        pytest.param("hrnet_w18_small", marks=NIGHTLY),
    ],
)
def test_known_networks_in_half_precision(tmp_path, name):
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    timm = pytest.importorskip("timm")
    from dmcp_deploy.export.to_onnx import export_onnx

    torch.manual_seed(0)
    factory = timm.create_model if name.startswith("hrnet") else torchvision.models.get_model
    exported = export_onnx(factory(name), tmp_path / "net.onnx", input_shape=(3, 64, 64))
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32)
    report = to_half(exported.path, tmp_path / "fp16.onnx", "fp16")
    reference = logits(exported.path, images)
    parity = compare_outputs(reference, logits(report.path, images))
    assert parity.max_rel < TOLERANCES["fp16"].max_rel
    assert report.kept == ()
    assert report.path.stat().st_size < 0.55 * exported.onnx_bytes
    assert to_half(exported.path, tmp_path / "bf16.onnx", "bf16").kept == ()
    assert overflowing_activations(exported.path, images) == {}


def write_with_ints(path: Path, nodes: list, weights: dict, ints: dict) -> None:
    graph = helper.make_graph(
        nodes,
        "ints",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2, 1, 1])],
        [numpy_helper.from_array(value, name) for name, value in {**weights, **ints}.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
