"""The run directory: what it holds, what it refuses, when a stage counts as done."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.options.run import Compute, RunOptions
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.request import RunRequest

REQUEST = RunRequest(
    network=NetworkSpec("mobilenet_v2", 1.0, 2, (3, 224, 224)),
    budget="211M",
    method="dmcp",
    sampling="expected",
    align=8,
    data="elpv",
    data_digest="sha256:0",
    weights=None,
    weights_digest=None,
    recipe={"name": "demo", "train": {"epochs": 8, "lr": 0.1}, "train_size": None},
    seed=0,
    init="scratch",
    distill=False,
    precision="fp32",
    max_steps=None,
)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that has been begun."""
    run = RunDir(tmp_path / "run")
    run.begin(REQUEST)
    return run


def test_a_request_is_read_as_it_was_written(run: RunDir) -> None:
    assert run.request() == REQUEST
    assert run.request().token() == REQUEST.token()
    assert run.stages() == {}


def test_beginning_again_changes_nothing(run: RunDir) -> None:
    before = run.file("run.json").read_bytes()
    run.begin(REQUEST)
    assert run.file("run.json").read_bytes() == before
    assert run.holds(REQUEST)


def test_an_empty_or_absent_directory_holds_no_run(tmp_path: Path) -> None:
    assert not RunDir(tmp_path).holds(REQUEST)
    assert not RunDir(tmp_path / "absent").holds(REQUEST)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 7}, "seed: 0 there, 7 asked for"),
        ({"weights": "/w.safetensors"}, "weights: None there, /w.safetensors asked for"),
        (
            {"network": NetworkSpec("mobilenet_v2", 0.5, 2, (3, 224, 224))},
            "network.width_mult: 1.0 there, 0.5 asked for",
        ),
        (
            {"recipe": {"name": "demo", "train": {"epochs": 8, "lr": 0.2}, "train_size": None}},
            "recipe.train.lr: 0.1 there, 0.2 asked for",
        ),
        ({"recipe": {**REQUEST.recipe, "more": 1}}, "recipe.more: None there, 1 asked for"),
        (
            {"data": "folder:/" + 80 * "x", "data_digest": "sha256:1"},
            f"data: elpv there, folder:/{49 * 'x'}... asked for",
        ),
    ],
)
def test_other_settings_are_refused_by_name(change: Any, named: str, run: RunDir) -> None:
    other = replace(REQUEST, **change)
    with pytest.raises(DmcpError) as caught:
        run.begin(other)
    assert f"({named})" in str(caught.value)
    assert run.request() == REQUEST
    assert other.token() != REQUEST.token()


def test_foreign_files_are_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(DmcpError, match="holds files, and no run"):
        RunDir(tmp_path).begin(REQUEST)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_killed_process_left_of_its_first_file_is_no_foreign_file(tmp_path: Path) -> None:
    (tmp_path / ".run.json.x1y2z3.part").write_text('{"kind": "ru')
    run = RunDir(tmp_path)
    run.begin(REQUEST)
    assert run.request() == REQUEST


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("text")
    with pytest.raises(DmcpError, match="is not a folder"):
        RunDir(path).begin(REQUEST)
    assert path.read_text() == "text"


def test_a_path_that_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DmcpError, match=r"Cannot read .*File name too long"):
        RunDir(tmp_path / (300 * "x")).begin(REQUEST)


def test_a_stage_is_current_while_its_files_are_what_they_were(run: RunDir) -> None:
    done(run)
    assert run.is_current("slice")
    assert run.figures("slice") == {"parity": 1e-7}
    assert run.stages()["slice"].seconds >= 0
    run.file("in").write_text("another")
    assert not run.is_current("slice")
    run.file("in").write_text("input")
    assert run.is_current("slice"), "the same content counts, not the time of writing"


@pytest.mark.parametrize("damage", ["missing", "changed"])
@pytest.mark.parametrize("name", ["in", "out"])
def test_a_stage_is_not_current_once_a_file_is_gone_or_another(
    name: str, damage: str, run: RunDir
) -> None:
    done(run)
    if damage == "missing":
        run.file(name).unlink()
    else:
        run.file(name).write_text("other")
    assert not run.is_current("slice")


def test_a_file_that_was_never_there_is_no_input(run: RunDir) -> None:
    with run.stage("slice", ["absent"], ["out"]):
        run.file("out").write_text("output")
    assert run.is_current("slice")
    assert run.stages()["slice"].inputs == {}


def test_a_stage_that_fails_is_not_on_record(run: RunDir) -> None:
    def fail() -> None:
        with run.stage("slice", [], ["out"]) as figures:
            figures["parity"] = 1.0
            raise DmcpError("They disagree.")

    with pytest.raises(DmcpError, match="They disagree"):
        fail()
    assert run.stages() == {}
    assert run.figures("slice") == {}
    assert not run.is_current("slice")


def test_a_stage_that_is_done_further_keeps_what_it_took(run: RunDir) -> None:
    with run.stage("search", [], []):
        pass
    with run.stage("search", [], [], 3600.0):
        pass
    assert 3600.0 <= run.stages()["search"].seconds < 3700.0


def test_stages_are_kept_beside_one_another(run: RunDir) -> None:
    done(run)
    with run.stage("train", [], []) as figures:
        figures["steps"] = 4
    assert list(run.stages()) == ["slice", "train"]
    assert run.request() == REQUEST


def test_a_directory_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(DmcpError, match=r"There is no run directory .*absent: start one"):
        RunDir(tmp_path / "absent").request()
    with pytest.raises(DmcpError, match=r"holds no run \(no run.json\): start one"):
        RunDir(tmp_path).stages()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", "zero"),
        ("seed", True),
        ("distill", 1),
        ("recipe", []),
        ("network", "mobilenet_v2"),
        ("max_steps", 0.5),
    ],
)
def test_a_request_with_a_wrong_type_is_refused_by_name(
    field: str, value: object, run: RunDir
) -> None:
    rewrite(run, "request", {**REQUEST.to_json(), field: value})
    with pytest.raises(DmcpError, match=f"run.json lacks or misstates .{field}.: "):
        run.request()


def test_a_request_that_lacks_a_field_or_has_another_is_refused(run: RunDir) -> None:
    without = {k: v for k, v in REQUEST.to_json().items() if k != "init"}
    rewrite(run, "request", without)
    with pytest.raises(DmcpError, match="lacks or misstates 'init'"):
        run.request()
    rewrite(run, "request", {**REQUEST.to_json(), "speed": 1})
    with pytest.raises(DmcpError, match=r"lacks or misstates .*'speed'"):
        run.request()


@pytest.mark.parametrize("stages", [None, [], {"slice": "done"}, {"slice": {"inputs": {}}}])
def test_damaged_stages_are_refused(stages: object, run: RunDir) -> None:
    rewrite(run, "stages", stages)
    with pytest.raises(DmcpError, match=r"run.json lacks or misstates '(stages|slice|seconds)'"):
        run.is_current("slice")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "dmpc"}, "--method 'dmpc' is unknown.*did you mean dmcp"),
        ({"sampling": "mean"}, "--sampling 'mean' is unknown: choose one of expected, markov"),
        ({"init": "slice"}, "--init 'slice' is unknown.*did you mean sliced"),
        ({"align": 0}, "--align 0 is too small: it must be at least 1"),
        ({"max_steps": 0}, "--max-steps 0 is too small"),
        ({"input_size": 8}, "--input-size 8 is too small: it must be at least 16"),
        ({"train_size": 8}, "--train-size 8 must lie in"),
        ({"seed": -1}, "--seed -1 must lie in"),
        ({"seed": 2**64}, "--seed 18446744073709551616 must lie in"),
    ],
)
def test_bad_options_are_refused_as_soon_as_they_are_stated(options: Any, named: str) -> None:
    with pytest.raises(DmcpError, match=named):
        RunOptions(**options)


@pytest.mark.parametrize("options", [{"workers": -1}, {"checkpoint_s": -1}])
def test_bad_ways_to_compute_are_refused(options: Any) -> None:
    with pytest.raises(DmcpError, match="must be at least 0"):
        Compute(**options)
    with pytest.raises(DmcpError, match="must be at least 0"):
        Compute(checkpoint_s=float("nan"))


@pytest.mark.parametrize(
    "options", [{"batches": ()}, {"batches": (1, 0)}, {"threads": -1}, {"seconds": 0}]
)
def test_bad_measurements_are_refused(options: Any) -> None:
    with pytest.raises(DmcpError):
        BenchOptions(**options)
    with pytest.raises(DmcpError, match="above zero and finite"):
        BenchOptions(seconds=float("inf"))


def done(run: RunDir) -> None:
    """Records a stage that read "in" and wrote "out"."""
    run.file("in").write_text("input")
    with run.stage("slice", ["in"], ["out"]) as figures:
        run.file("out").write_text("output")
        figures["parity"] = 1e-7


def rewrite(run: RunDir, key: str, value: object) -> None:
    content = json.loads(run.file("run.json").read_text())
    run.file("run.json").write_text(json.dumps({**content, key: value}))
