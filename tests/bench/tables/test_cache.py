"""Where latency tables are kept, and which of them tell the time of what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from table_samples import SPEC, made_up

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.tables.cache import (
    built_path,
    check_table,
    elsewhere,
    keep_table,
    kept_path,
    other_version,
)
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.measure import Setting

HERE = {
    "machine": "x86_64",
    "cpu": "a processor",
    "cores": 4,
    "governor": "performance",
    "libraries": {"onnxruntime": "1.32.0", "openvino": "2026.1", "tensorrt": "10.3"},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "setting", "environment"),
    [
        ({"num_classes": 6}, {}, {}),
        ({"input_shape": (3, 16, 32)}, {}, {}),
        ({}, {"threads": 2}, {}),
        ({}, {"batch": 8}, {}),
        ({}, {"runtime": "openvino"}, {}),
        ({}, {"precision": "fp16"}, {}),
        ({}, {}, {"cpu": "another"}),
        ({}, {}, {"governor": "powersave"}),
        ({}, {}, {"power_mode": "15W"}),
        ({}, {}, {"libraries": {"onnxruntime": "1.33.0"}}),
    ],
)
def test_a_table_is_kept_for_one_network_setting_device_and_version(
    spec: dict, setting: dict, environment: dict
) -> None:
    usual = built_path(SPEC, Setting(threads=1), HERE)
    other = built_path(
        replace(SPEC, **spec), replace(Setting(threads=1), **setting), {**HERE, **environment}
    )
    assert other.parent == usual.parent
    assert other != usual


@pytest.mark.parametrize(
    "changes", [{"libraries": {**HERE["libraries"], "openvino": "2027"}}, {"load_average": 3}]
)
def test_what_costs_no_time_makes_no_other_table(changes: dict) -> None:
    setting = Setting(threads=1)
    same = replace(SPEC, transform_input=True)
    assert built_path(same, setting, {**HERE, **changes}) == built_path(SPEC, setting, HERE)


def test_a_table_that_is_used_is_kept_by_its_digest(tmp_path: Path) -> None:
    made_up().save(tmp_path / "table.json")
    digest = keep_table(tmp_path / "table.json")
    assert digest == digest_file(tmp_path / "table.json") == digest_file(kept_path(digest))
    kept_path(digest).write_text("torn")
    keep_table(tmp_path / "table.json")
    assert digest_file(kept_path(digest)) == digest


@pytest.mark.parametrize(
    ("environment", "differs"),
    [
        ({}, None),
        ({"governor": "powersave"}, None),
        ({"cpu": "another"}, "cpu a processor there, another here"),
        ({"cores": 8}, "cores 4 there, 8 here"),
        ({"gpus": [{"name": "a GPU"}]}, None),
        ({"libraries": {"openvino": "2026.1"}}, "onnxruntime is not installed here"),
    ],
)
def test_a_device_is_told_by_its_processor(environment: dict, differs: str | None) -> None:
    assert elsewhere(made_up(environment=HERE), {**HERE, **environment}) == differs


def test_engines_are_told_by_their_gpu() -> None:
    orin = {**HERE, "gpus": [{"name": "Orin", "memory_bytes": 1}], "cores": 6}
    table = made_up(environment=orin, setting=Setting(runtime="tensorrt", precision="fp16"))
    assert elsewhere(table, {**orin, "cores": 12}) is None
    told = elsewhere(table, {**HERE, "gpus": [{"name": "H100"}]})
    assert told == "gpus ['Orin'] there, ['H100'] here"


def test_a_version_of_another_library_does_not_count() -> None:
    table = made_up(environment=HERE)
    newer = {**HERE, "libraries": {"onnxruntime": "1.33.0", "openvino": "2027"}}
    assert other_version(table, newer) == "onnxruntime 1.32.0 there, 1.33.0 here"
    assert other_version(table, {**HERE, "libraries": {"openvino": "2027"}}) is None
    engines = made_up(environment=HERE, setting=Setting(runtime="tensorrt-rtx"))
    assert other_version(engines, {**HERE, "libraries": {"tensorrt": "11"}}) is None


@pytest.mark.parametrize(
    ("spec", "asked", "told"),
    [
        ({"width_mult": 0.5}, {}, "is of tiny:net x1 for 5 classes at 3x16x16, and the budget is"),
        ({}, {"threads": 1, "batch": 2}, "was measured with batch 1, and 2 is asked for"),
        ({}, {"runtime": "openvino"}, "was measured with runtime onnxruntime, and openvino is"),
    ],
)
def test_a_table_of_something_else_is_refused(spec: dict, asked: dict, told: str) -> None:
    check_table(made_up(), Path("table.json"), replace(SPEC, transform_input=True), {"threads": 1})
    with pytest.raises(DmcpError, match=told):
        check_table(made_up(), Path("table.json"), replace(SPEC, **spec), asked)
