"""Templates of ONNX files: how numbers follow from widths, found and applied; no torch."""

from __future__ import annotations

import json

import onnx
import pytest
from tiny_onnx import write_tiny_net

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.tables.counting import are_told_apart, find_counting
from dmcp_deploy.bench.tables.probes import ProbedGroup, WidthForm
from dmcp_deploy.bench.tables.template import (
    FILE,
    FULL,
    Count,
    Rule,
    Template,
    narrow_onnx,
    open_template,
)
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.layers import onnx_layers
from dmcp_deploy.onnxgraph.narrowing import AXIS, ELEMENT, Slot
from dmcp_deploy.plan import NetworkSpec

GROUPS = {"a": ProbedGroup(16, 1), "b": ProbedGroup(24, 2)}
ONE, TWO, BOTH = (
    WidthForm(0, {"a": 1}),
    WidthForm(0, {"b": 2}),
    WidthForm(3, {"a": 1, "b": 2}),
)
#: Full, and two others.
WIDTHS = [{"a": 16, "b": 24}, {"a": 4, "b": 18}, {"a": 10, "b": 6}]


def seen(*rows):
    return [{Slot(AXIS, f"n{i}", 0): n for i, n in enumerate(column)} for column in zip(*rows)]  # noqa: B905


def found(*rows):
    return find_counting(seen(*rows), WIDTHS, GROUPS, [ONE, TWO, BOTH])


def test_numbers_follow_from_groups_and_sums_of_them_by_factors():
    counting = found((16, 4, 10), (24 * 49, 18 * 49, 6 * 49), (12, 9, 3), (43, 25, 19), (7, 7, 7))
    assert counting.counts == (Count(ONE), Count(TWO, 49), Count(TWO, 1, 2), Count(BOTH))
    assert [rule.slot.name for rule in counting.rules] == ["n0", "n1", "n2", "n3"]
    assert not counting.untold


def test_equal_numbers_share_a_count_and_others_are_untold():
    counting = found((16, 4, 10), (16, 4, 10), (16, 4, 11))
    assert counting.counts == (Count(ONE),)
    assert [rule.count for rule in counting.rules] == [0, 0]
    assert [slot.name for slot in counting.untold] == ["n2"]


def test_elements_of_a_tensor_that_is_cut_are_no_numbers_of_their_own():
    cut, element = Slot(AXIS, "t", 0), Slot(ELEMENT, "t", 15)
    numbers = [{cut: 16, element: 15}, {cut: 4}, {cut: 10}]
    counting = find_counting(numbers, WIDTHS, GROUPS, [ONE])
    assert [rule.slot for rule in counting.rules] == [cut]
    assert not counting.untold


def test_groups_are_told_apart_only_by_widths_at_which_they_differ():
    groups = {"a": ProbedGroup(8, 1), "b": ProbedGroup(8, 1)}
    forms = [WidthForm(0, {"a": 1}), WidthForm(0, {"b": 1}), WidthForm(0, {"b": 2})]
    full, alike, apart = {"a": 8, "b": 8}, {"a": 4, "b": 4}, {"a": 4, "b": 6}
    assert not are_told_apart(forms, [full, alike], groups)
    assert are_told_apart(forms, [full, apart], groups)


def test_a_group_that_stays_whole_is_not_told_apart_from_what_is_fixed():
    forms = [WidthForm(8, {}), WidthForm(0, {"a": 1})]
    groups = {"a": ProbedGroup(8, 1)}
    assert not are_told_apart(forms, [{"a": 8}, {"a": 8}], groups)
    assert are_told_apart(forms, [{"a": 8}, {"a": 7}], groups)


@pytest.fixture
def folder(tmp_path):
    """Returns a folder with the template of a network of 16 channels, made by hand."""
    write_tiny_net(tmp_path / FULL, width=16)
    rules = (Rule(Slot(AXIS, "conv", 0), 0), Rule(Slot(AXIS, "linear", 1), 0))
    group = {"conv": ProbedGroup(16, 2)}
    count = Count(WidthForm(0, {"conv": 2}))
    spec = NetworkSpec("tiny:net", 1.0, 5, (3, 16, 16))
    digest = digest_file(tmp_path / FULL)
    Template(spec, digest, group, (count,), rules, ()).save(tmp_path)
    return tmp_path


def test_a_file_is_narrowed_by_its_template(folder):
    template = open_template(folder)
    narrow_onnx(template, {"conv": 6}, folder / "narrow.onnx")
    narrow_onnx(template, {}, folder / "same.onnx")
    write_tiny_net(folder / "wanted.onnx", width=6)
    assert onnx_layers(folder / "narrow.onnx") == onnx_layers(folder / "wanted.onnx")
    assert onnx_layers(folder / "same.onnx") == onnx_layers(folder / FULL)
    onnx.checker.check_model(onnx.load(folder / "narrow.onnx"), full_check=True)


@pytest.mark.parametrize("width", [0, -2, 3, 18])
def test_widths_that_the_group_cannot_have_are_refused_and_nothing_written(folder, width):
    with pytest.raises(DmcpError, match=f"conv cannot have {width} channels: it has 16 and goes"):
        narrow_onnx(open_template(folder), {"conv": width}, folder / "narrow.onnx")
    assert not (folder / "narrow.onnx").exists()


def test_a_template_of_another_file_or_a_damaged_one_is_refused(folder):
    content = json.loads((folder / FILE).read_text())
    content["rules"][0]["count"] = 1
    (folder / "damaged").mkdir()
    (folder / "damaged" / FILE).write_text(json.dumps(content))
    with pytest.raises(DmcpError, match="names a count that it has not"):
        open_template(folder / "damaged")
    write_tiny_net(folder / FULL, width=8)
    with pytest.raises(DmcpError, match=r"full\.onnx is not the file that .*template\.json was"):
        open_template(folder)
    (folder / FULL).unlink()
    with pytest.raises(DmcpError, match="There is no ONNX file"):
        open_template(folder)


def test_parts_that_are_not_whole_are_refused():
    count = Count(ONE, 1, 4)
    assert count.at({"a": 8, "b": 2}, GROUPS) == 2
    with pytest.raises(DmcpError, match="6 channels x 1 are no multiple of 4"):
        count.at({"a": 6, "b": 2}, GROUPS)
