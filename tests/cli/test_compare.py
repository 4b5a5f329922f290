"""Whole comparisons of a small network on a small image folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import warm
from pipeline_table import FULL_MS, bench_record, pipeline_table
from tiny_runs import ENVIRONMENT, MODEL, changed, command_line, refused, snapshot, succeed

from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.run import certify
from dmcp_deploy.run.certificates import left_plan, table_ms
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.files import PRUNED

#: Search steps are few: what is tested is that runs are made, kept, measured and shown.
ASKED = ("--input-size", 32, "--batch-size", 8, "--max-steps", 3, "--seconds", 0.1, "--no-rehearse")


def asked(data: Path, out: Path, *more: object, flops: str = "25%") -> list[object]:
    where = ("--model", MODEL, "--flops", flops, "--data", data, "--out", out)
    return ["compare", *where, *ASKED, *more]


def results(out: Path) -> dict[tuple[str, int], dict[str, Any]]:
    content = json.loads((out / "compare.json").read_text())
    return {_key(item["cell"]): item for item in content["results"]}


def _key(cell: dict[str, Any]) -> tuple[str, int]:
    entry = cell["entry"]
    weights = f"@{entry['supernet']}" if entry["supernet"] else ""
    return f"{entry['method']}{weights}", cell["seed"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--methods", "dcmp"), "did you mean dmcp?"),
        (("--seeds", 0), "--seeds 0 must lie in 1..100"),
        (("--jobs", 0), "--jobs 0 is too small"),
        (("--weights", "nowhere.safetensors"), "There is no weights file"),
        (("--runtime", "onnx"), "--runtime 'onnx' is unknown"),
        (("--runtime", "torch"), "compare measures ONNX files or engines"),
        (("--methods", "l1@dmcp"), "before @ stands one of random, uniform, not 'l1'"),
        (
            ("--methods", "uniform@dmcp", "--init", "scratch"),
            "leave --init out, or uniform without",
        ),
        (("--latency", "60%", "--jobs", 2), "--jobs 2 disturbs --latency 60%"),
        (("--latency", "60"), "latency budget '60' has no unit"),
        (("--params", "0.1%"), "is below the narrowest network"),
        (("--table", "table.json"), "--table table.json is for a budget in time"),
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


def test_without_any_budget_nothing_is_compared(tiny_folder, tmp_path) -> None:
    words = asked(tiny_folder, tmp_path / "out")
    place = words.index("--flops")
    del words[place : place + 2]
    assert "There is no budget: give --flops 211M, --latency 25ms" in refused(*words)


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
class TestLentWeights:
    """Rows that are cut out of the full network that another row's search has trained."""

    MORE = ("--methods", "uniform@dmcp*,uniform", "--seeds", 1)

    def test_the_lender_comes_along_and_is_worked_on_first(self, tiny_folder, tmp_path) -> None:
        out = tmp_path / "out"
        text = succeed(*asked(tiny_folder, out, *self.MORE, "--jobs", 2))
        assert "minus its control [95%]" in text
        found = results(out)
        assert found.keys() == {("dmcp", 0), ("uniform@dmcp", 0), ("uniform", 0)}
        cut, uniform = found["uniform@dmcp", 0], found["uniform", 0]
        assert cut["channels"] == uniform["channels"]
        assert (cut["search_steps"], uniform["search_steps"]) == (3, 0)
        assert cut["untrained_top1"] is not None
        before = snapshot(out)
        succeed(*asked(tiny_folder, out, *self.MORE))
        touched = changed(before, snapshot(out))
        assert touched == {"compare.json", "compare.html"}

    def test_where_the_lender_fails_the_taker_says_so(self, tiny_folder, tmp_path) -> None:
        out = tmp_path / "out"
        blocked = out / "dmcp-distilled-25pct-seed0"
        blocked.mkdir(parents=True)
        (blocked / "notes.txt").write_text("mine")
        told = _failing(*asked(tiny_folder, out, *self.MORE))
        assert "dmcp* at 25%, seed 0:" in told
        assert "uniform@dmcp* at 25%, seed 0:" in told
        assert "has no supernet.safetensors that uniform-from-dmcp-distilled-25pct-seed0" in told
        assert results(out).keys() == {("uniform", 0)}
        (blocked / "notes.txt").unlink()
        succeed(*asked(tiny_folder, out, *self.MORE))
        assert results(out).keys() == {("dmcp", 0), ("uniform@dmcp", 0), ("uniform", 0)}


@pytest.mark.slow
def test_budgets_in_time_and_parameters_are_kept_and_certified(
    tiny_folder, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table, out = pipeline_table(), tmp_path / "out"
    table.save(tmp_path / "table.json")

    def measure(files: Mapping[str, Path], *_: object) -> BenchRecord:
        plan = ChannelPlan.load(left_plan(RunDir(files[PRUNED].parents[1])))
        return bench_record(FULL_MS, table_ms(table, plan), table)

    monkeypatch.setattr(certify, "measure", measure)
    more = ("--methods", "uniform,budget-only", "--seeds", 1, "--table", tmp_path / "table.json")
    words = asked(tiny_folder, out, *more, "--latency", "60%,50%", flops="90%")
    text = succeed(*words, "--params", "90%")
    assert "(met 1)" in text
    folders = {path.name for path in out.iterdir() if path.is_dir()} - {"full-seed0"}
    assert folders == {
        f"{method}-90pct-latency-{share}pct-params-90pct-seed0"
        for method in ("uniform", "budget-only")
        for share in (60, 50)
    }
    content = json.loads((out / "compare.json").read_text())
    for item in content["results"]:
        limit_ms = FULL_MS * (0.6 if "60" in item["cell"]["budget"] else 0.5)
        kept = item["time_kept"]
        assert kept["limit_ms"] == pytest.approx(limit_ms, rel=0.01)
        assert 0.95 <= kept["predicted_ms"] / kept["limit_ms"] <= 1.0
        assert kept["measured_ms"] == pytest.approx(kept["predicted_ms"], rel=0.01)
        assert kept["verdict"] == "met"
        assert 0.95 <= item["budget_share"] <= 1.0
    assert content["request"]["latency"] == "60%,50%"
    assert "and 60%,50% of time and 90% of the parameters" in (out / "compare.html").read_text()


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
