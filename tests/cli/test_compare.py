"""Whole comparisons of a small network on a small image folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import warm
from tiny_runs import ENVIRONMENT, MODEL, changed, command_line, refused, snapshot, succeed

#: Search steps are few: what is tested is that runs are made, kept, measured and shown.
ASKED = ("--input-size", 32, "--batch-size", 8, "--max-steps", 3, "--seconds", 0.1, "--no-rehearse")


def asked(data: Path, out: Path, *more: object, flops: str = "25%") -> list[object]:
    where = ("--model", MODEL, "--flops", flops, "--data", data, "--out", out)
    return ["compare", *where, *ASKED, *more]


def results(out: Path) -> dict[tuple[str, int], dict[str, Any]]:
    content = json.loads((out / "compare.json").read_text())
    return {
        (item["cell"]["entry"]["method"], item["cell"]["seed"]): item for item in content["results"]
    }


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--methods", "dcmp"), "did you mean dmcp?"),
        (("--seeds", 0), "--seeds 0 must lie in 1..100"),
        (("--jobs", 0), "--jobs 0 is too small"),
        (("--weights", "nowhere.safetensors"), "There is no weights file"),
        (("--runtime", "onnx"), "--runtime 'onnx' is unknown"),
        (("--runtime", "torch"), "compare measures ONNX files or engines"),
        (("--init", "slices"), "--init 'slices' is unknown"),
        (("--seconds", 0), "--seconds 0 must be above zero"),
    ],
)
def test_what_is_wrong_is_found_before_any_training(more, told, tiny_folder, tmp_path) -> None:
    assert told in refused(*asked(tiny_folder, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_every_budget_is_checked_before_any_training(tiny_folder, tmp_path) -> None:
    sentence = refused(*asked(tiny_folder, tmp_path / "out", flops="25%,0.1%"))
    assert "is below the narrowest network" in sentence
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def done(tiny_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "out"
    text = succeed(*asked(tiny_folder, out, "--methods", "uniform,fpgm*", "--seeds", 1))
    assert "fpgm*" in text
    return out


@pytest.mark.slow
@pytest.mark.xdist_group("compare")
class TestComparison:
    def test_it_leaves_runs_a_record_and_a_page(self, done: Path) -> None:
        assert {path.name for path in done.iterdir()} == {
            *("full-seed0", "uniform-25pct-seed0", "fpgm-distilled-25pct-seed0"),
            *("compare.json", "compare.html"),
        }

    def test_every_cell_meets_the_budget_and_is_measured(self, done: Path) -> None:
        for item in results(done).values():
            assert 0.98 <= item["macs"] / item["budget_macs"] <= 1.0
            assert item["latency"]["low"] <= item["latency"]["ratio"] <= item["latency"]["high"]
            assert item["train_steps"] == 3

    def test_all_start_from_the_same_trained_network(self, done: Path) -> None:
        for name in ("uniform-25pct-seed0", "fpgm-distilled-25pct-seed0"):
            request = json.loads((done / name / "run.json").read_text())["request"]
            assert request["weights"] == str((done / "full-seed0/dense.safetensors").resolve())
        content = json.loads((done / "compare.json").read_text())
        full = json.loads((done / "full-seed0/run.json").read_text())
        accuracy = full["stages"]["train"]["figures"]["accuracy"]["top1"]
        assert content["full"][0]["top1"] == accuracy

    def test_what_is_done_is_kept_when_more_is_asked_for(self, done: Path, tiny_folder) -> None:
        before, found = snapshot(done), results(done)
        succeed(
            *asked(tiny_folder, done, "--methods", "uniform,fpgm*,l2", "--seeds", 1, "--jobs", 2)
        )
        touched = {name.split("/")[0] for name in changed(before, snapshot(done))}
        assert touched == {"l2-25pct-seed0", "compare.json", "compare.html"}
        again = results(done)
        assert again.keys() == found.keys() | {("l2", 0)}
        assert all(again[key] == found[key] for key in found)

    def test_other_settings_are_refused_for_the_runs_that_lie_there(
        self, done: Path, tiny_folder
    ) -> None:
        more = ("--methods", "uniform", "--seeds", 1, "--epochs", 3)
        sentence = refused(*asked(tiny_folder, done, *more))
        assert "holds a run with other settings (recipe.train.epochs" in sentence


@pytest.mark.slow
def test_a_cell_that_fails_leaves_the_others(tiny_folder, tmp_path) -> None:
    out = tmp_path / "out"
    blocked = out / "l1-25pct-seed0"
    blocked.mkdir(parents=True)
    (blocked / "notes.txt").write_text("mine")
    sentence = _failing(*asked(tiny_folder, out, "--methods", "l1,uniform", "--seeds", 1))
    assert "l1 at 25%, seed 0:" in sentence
    assert "holds files, and no run" in sentence
    assert results(out).keys() == {("uniform", 0)}
    assert "holds files, and no run" in (out / "compare.html").read_text()
    assert (blocked / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_killed_comparison_ends_as_an_undisturbed_one(tiny_folder, tmp_path) -> None:
    more = ("--methods", "dmcp", "--seeds", 1, "--checkpoint-seconds", 0)
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    succeed(*asked(tiny_folder, whole, *more))
    command = command_line(*asked(tiny_folder, killed, *more, "--jobs", 2))
    with warm.Process(command, ENVIRONMENT) as process:
        mark = killed / "dmcp-25pct-seed0" / "checkpoints" / "search.safetensors"
        while not mark.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.communicate(60)
    succeed(*asked(tiny_folder, killed, *more))
    ours, theirs = results(whole), results(killed)
    assert ours.keys() == theirs.keys()
    for key, item in ours.items():
        assert theirs[key]["channels"] == item["channels"]
        assert theirs[key]["loss"] == item["loss"]


def _failing(*arguments: object) -> str:
    done = warm.run(command_line(*arguments), ENVIRONMENT)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stdout
