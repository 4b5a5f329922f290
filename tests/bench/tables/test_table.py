from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from table_samples import made_up

from dmcp_deploy.bench.tables.table import LatencyTable, error_share
from dmcp_deploy.errors import DmcpError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "table.json"
    made_up().save(path)
    return path


def change(path, *keys, value):
    content = json.loads(path.read_text(encoding="utf-8"))
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_table_is_read_as_it_was_written(path):
    assert LatencyTable.load(path) == made_up()
    assert path.stat().st_size < 30_000


def test_the_kernels_of_a_probe_are_the_sum_over_its_layers():
    table = made_up()
    first, second = table.layers
    expected = [
        a + b + c + d
        for a, b, c, d in zip(
            first.own.ms, first.after.ms, second.own.ms, second.after.ms, strict=True
        )
    ]
    assert table.kernels_ms == pytest.approx(expected)


def test_the_error_is_the_one_that_nine_of_ten_stay_below():
    measured = [1.0] * 10
    predicted = [1 + 0.01 * i for i in range(9)] + [5.0]
    assert error_share(predicted, measured) == pytest.approx(0.08)
    assert error_share([1.0], [0.0]) == 0.0


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("schema_version",), 99, r"has schema version 99, and this release reads 1"),
        (("kind",), "bench", r"is not a latency-table file: its kind is 'bench'"),
        (("layers",), [], r"is not valid: A table needs 2 probes and a layer"),
        (("layers", 0, "own", "ms", 2), math.nan, r"first: a time of nan ms; times are finite"),
        (("layers", 0, "after", "ms", 2), -1.0, r"first: a time of -1.0 ms"),
        (("layers", 1, "own", "ms"), [], r"second: 0 times for 9 probes"),
        (
            ("layers", 1, "own", "ms"),
            "12",
            r"misstates 'ms': '12' .a list is needed. in layers.1.own",
        ),
        (("layers", 1, "in_channels"), [8], r"second needs channels in each of 9 probes"),
        (("layers", 1, "name"), "first", r"A layer stands twice in one table"),
        (("whole", "ms", 0), 0.0, r"whole calls took 0.0 ms: times are above zero"),
        (("median_ms", 3), math.inf, r"whole calls: a time of inf ms"),
        (("median_ms",), [1.0], r"whole calls: 1 times for 9 probes"),
        (("setting",), {}, r"lacks or misstates 'runtime'"),
        (("environment",), 3, r"lacks or misstates"),
    ],
)
def test_a_bad_table_is_refused_in_one_sentence(path, keys, value, message):
    change(path, *keys, value=value)
    with pytest.raises(DmcpError, match=message):
        LatencyTable.load(path)


def test_a_missing_table_and_no_json_are_refused(tmp_path):
    with pytest.raises(DmcpError, match="There is no latency-table file"):
        LatencyTable.load(tmp_path / "gone.json")
    (tmp_path / "table.json").write_text("{", encoding="utf-8")
    with pytest.raises(DmcpError, match="is not readable as the JSON of a latency-table"):
        LatencyTable.load(tmp_path / "table.json")


def test_layers_of_one_shape_are_told_from_others():
    first, second = made_up().layers
    twin = replace(second, name="third")
    assert twin.shape == second.shape != first.shape
    assert replace(twin, kernel=(3, 3)).shape != second.shape
