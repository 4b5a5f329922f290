"""Every experiment runs, tiny, and goes on where it was stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = [pytest.mark.slow(seconds=60), pytest.mark.needs("fashion-mnist")]

ARMS = ("dmcp", "uniform", "budget-only", "uniform, larger")


def test_d0_judges_plans_at_equal_multiply_adds_and_goes_on(tmp_path: Path) -> None:
    found = smoke("d0_headroom", tmp_path, "--task", "fashion")
    row = found["results"]["fashion/0"]
    others = {"uniform", "budget-only", "autoslim", "best found"}
    assert set(row["plans"]) == {"dmcp", *others}
    assert all(0.995 <= plan["share"] <= 1.0 for plan in row["plans"].values())
    assert row["plans"]["best found"]["seen_loss"] == min(
        plan["seen_loss"] for plan in row["plans"].values()
    )
    assert row["plans_judged"] == 4 + 2 * 4
    assert len(row["groups"]) == 11
    forgotten = {**found, "results": {}}
    (tmp_path / "d0_headroom.json").write_text(json.dumps(forgotten))
    again = smoke("d0_headroom", tmp_path, "--task", "fashion")
    assert without_times(again) == without_times(found)


def test_d1_trains_two_sizes_a_length(tmp_path: Path) -> None:
    found = smoke("d1_calibrate", tmp_path, "--task", "duo48")
    macs = {key: row["macs"] for key, row in found["results"].items()}
    assert set(macs) == {
        f"{steps}/{arm}/{seed}"
        for steps in (2, 3)
        for arm in ("uniform", "uniform, larger")
        for seed in (0, 1)
    }
    assert macs["3/uniform, larger/0"] == pytest.approx(1.35 * macs["3/uniform/0"], rel=0.02)


def test_arms_are_trained_at_equal_multiply_adds_and_a_run_goes_on(tmp_path: Path) -> None:
    found = smoke("d2_training", tmp_path)
    check_arms(found)
    kept = {key: row for key, row in found["results"].items() if key != "dmcp/1"}
    (tmp_path / "d2_training.json").write_text(json.dumps({**found, "results": kept}))
    assert without_times(smoke("d2_training", tmp_path)) == without_times(found)


@pytest.mark.nightly("a minute, and D2 goes the same way")
@pytest.mark.parametrize("name", ["d3_control", "d4_small"])
def test_arms_are_trained_on_other_networks(tmp_path: Path, name: str) -> None:
    check_arms(smoke(name, tmp_path))


def check_arms(found: dict[str, Any]) -> None:
    """Checks that every arm is there, at the same multiply-adds, and of the plans found."""
    results = found["results"]
    assert set(results) == {
        *(f"search/{seed}" for seed in (0, 1)),
        *(f"{arm}/{seed}" for arm in ARMS for seed in (0, 1)),
    }
    for arm in ("dmcp", "budget-only"):
        assert results[f"{arm}/0"]["macs"] == pytest.approx(results["uniform/0"]["macs"], rel=0.02)
    assert results["dmcp/1"]["widths"] == results["search/1"]["widths"]


def test_d4_searches_in_one_call_and_trains_in_another(tmp_path: Path) -> None:
    searched = smoke("d4_duo100", tmp_path, "--stage", "search")
    assert {r["kind"] for r in searched["records"]} == {"search"}
    found = smoke("d4_duo100", tmp_path, "--stage", "train")
    dense = [r for r in found["records"] if r["kind"] == "dense"]
    assert {r["arm"] for r in dense} == {*ARMS, "uniform, last kept"}
    plans = {r["seed"]: r["widths"] for r in searched["records"]}
    assert all(r["widths"] == plans[r["search"]] for r in dense if r["arm"] == "dmcp")


def smoke(name: str, folder: Path, *words: str) -> dict[str, Any]:
    """Runs an experiment's smoke test and returns what it has written."""
    out = folder / f"{name}.json"
    script, places = BENCHMARKS / "worth" / f"{name}.py", ["--out", out, "--work", folder / "runs"]
    command = [sys.executable, script, "--smoke", *words, *places]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| uniform" in done.stdout
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def without_times(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the records without what they took."""
    return {
        key: {name: value for name, value in row.items() if name != "seconds"}
        for key, row in content["results"].items()
    }
