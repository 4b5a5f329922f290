"""Narrower graphs of one graph, and graphs compared under the same names; no torch."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper, numpy_helper
from tiny_onnx import save_graph, write_tiny_net

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.alike import UnlikeError, check_same, renamed, unshared
from dmcp_deploy.onnxgraph.narrowing import (
    ATTRIBUTE,
    AXIS,
    BETWEEN,
    ELEMENT,
    NarrowableGraph,
    Slot,
    read_numbers,
)


def chain(path, width: int, middle: int, *, prefix: str = "", shared: bool = False) -> ModelProto:
    """Returns a depthwise convolution of some channels, flattened by a stored shape, twice over."""
    rng = np.random.default_rng(0)
    one, two = prefix + "shape", prefix + ("shape" if shared else "shape_2")
    nodes = [
        helper.make_node("Conv", ["input", "stem"], [prefix + "wide"]),
        helper.make_node("Conv", [prefix + "wide", "own"], [prefix + "deep"], group=width),
        helper.make_node("Reshape", [prefix + "deep", one], [prefix + "flat"]),
        helper.make_node("Gemm", [prefix + "flat", "hidden"], [prefix + "thin"], transB=1),
        helper.make_node("Reshape", [prefix + "thin", two], [prefix + "again"]),
        helper.make_node("Gemm", [prefix + "again", "last"], ["logits"], transB=1),
    ]
    weights = {
        "stem": rng.standard_normal((16, 3, 1, 1))[:width],
        "own": rng.standard_normal((16, 1, 2, 2))[:width],
        "hidden": rng.standard_normal((16, 16))[:middle, :width],
        "last": rng.standard_normal((5, 16))[:, :middle],
    }
    stored = {name: value.astype(np.float32) for name, value in weights.items()}
    stored |= {one: np.array([-1, width])} if shared else {}
    stored |= {} if shared else {one: np.array([-1, width]), two: np.array([-1, middle])}
    ends = {"input": ["batch", 3, 2, 2]}, {"logits": ["batch", 5]}
    save_graph(path, nodes, inputs=ends[0], outputs=ends[1], weights=stored)
    model = onnx.load(path)
    between = helper.make_tensor_value_info(prefix + "deep", 1, ["batch", width, 1, 1])
    model.graph.value_info.append(between)
    return model


def logits(model: ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    images = np.random.default_rng(1).standard_normal((2, 3, 2, 2), dtype=np.float32)
    return session.run(None, {"input": images})[0]


def test_all_numbers_that_depend_on_widths_are_read(tmp_path):
    numbers = read_numbers(chain(tmp_path / "a.onnx", 16, 12))
    assert numbers[Slot(AXIS, "own", 0)] == 16
    assert numbers[Slot(ELEMENT, "shape", 1)] == 16
    assert numbers[Slot(ATTRIBUTE, "deep", 0, "group")] == 16
    assert numbers[Slot(BETWEEN, "deep", 1)] == 16
    assert Slot(BETWEEN, "deep", 0) not in numbers


def test_a_graph_at_the_numbers_of_a_narrower_one_is_that_one(tmp_path):
    full, narrow = chain(tmp_path / "a.onnx", 16, 12), chain(tmp_path / "b.onnx", 6, 4)
    narrowable = NarrowableGraph(full)
    made = narrowable.at(read_numbers(narrow))
    check_same(made, narrow)
    onnx.checker.check_model(made, full_check=True)
    np.testing.assert_array_equal(logits(made), logits(narrow))
    check_same(narrowable.at({}), full)


def test_a_written_graph_forgets_the_shapes_that_are_asked_of_it(tmp_path):
    full, path = chain(tmp_path / "a.onnx", 16, 12), tmp_path / "made.onnx"
    NarrowableGraph(full, ["deep"]).write(read_numbers(full), path)
    assert not onnx.load(path).graph.value_info
    np.testing.assert_array_equal(logits(onnx.load(path)), logits(full))


def test_numbers_of_constant_operators_change_too(tmp_path):
    model = chain(tmp_path / "a.onnx", 16, 12)
    stored = next(t for t in model.graph.initializer if t.name == "shape")
    node = helper.make_node("Constant", [], ["shape"], value=stored)
    model.graph.initializer.remove(stored)
    model.graph.node.insert(0, node)
    narrow = chain(tmp_path / "b.onnx", 6, 4)
    made = NarrowableGraph(model).at(read_numbers(narrow))
    np.testing.assert_array_equal(logits(made), logits(narrow))


def test_a_count_that_is_stored_as_a_single_number_changes_too(tmp_path):
    graph = chain(tmp_path / "net.onnx", 16, 12)
    graph.graph.initializer.append(numpy_helper.from_array(np.array(12), "channels"))
    slot = Slot(ELEMENT, "channels", 0)
    assert read_numbers(graph)[slot] == 12
    narrow = NarrowableGraph(graph).at({slot: 7})
    assert read_numbers(narrow)[slot] == 7
    assert list(narrow.graph.initializer[-1].dims) == []


def test_equal_shapes_that_are_stored_once_are_told_apart(tmp_path):
    shared = chain(tmp_path / "a.onnx", 16, 16, shared=True)
    apart = unshared(shared)
    assert sorted(t.name for t in apart.graph.initializer if t.name.startswith("shape")) == [
        "shape",
        "shape_2",
    ]
    made = NarrowableGraph(apart).at(read_numbers(chain(tmp_path / "b.onnx", 6, 4)))
    np.testing.assert_array_equal(logits(made), logits(chain(tmp_path / "b.onnx", 6, 4)))


def test_a_graph_of_other_names_is_read_under_the_first_ones(tmp_path):
    full = chain(tmp_path / "a.onnx", 16, 12)
    other = chain(tmp_path / "b.onnx", 6, 4, prefix="x_")
    named = renamed(other, full)
    check_same(named, chain(tmp_path / "c.onnx", 6, 4))
    np.testing.assert_array_equal(logits(named), logits(other))


def test_graphs_that_differ_in_more_than_numbers_are_refused(tmp_path):
    full, other = chain(tmp_path / "a.onnx", 16, 12), chain(tmp_path / "b.onnx", 16, 12)
    shorter = onnx.load(write_tiny_net(tmp_path / "c.onnx").path)
    with pytest.raises(UnlikeError, match="has 6 operators, and 5 at other widths"):
        renamed(shorter, full)
    other.graph.node[4].input[0] = "flat"
    with pytest.raises(UnlikeError, match="from its Reshape 'again' on"):
        renamed(other, full)
    with pytest.raises(DmcpError, match="has 12 where 4 is exported"):
        check_same(full, chain(tmp_path / "d.onnx", 16, 4))


def test_indices_that_change_with_the_widths_are_refused(tmp_path):
    full, other = chain(tmp_path / "a.onnx", 16, 12), chain(tmp_path / "b.onnx", 16, 12)
    for model, first in ((full, 0), (other, 1)):
        indices = np.arange(first, first + 100)
        model.graph.initializer.append(numpy_helper.from_array(indices, "places"))
    with pytest.raises(UnlikeError, match="The indices places"):
        check_same(full, other)
