"""Run directories of every state: what a report tells of them, and what it refuses."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_runs import KEPT, LOSSES, STAGES, edit, make_run

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.report.gather import gather, gather_all
from dmcp_deploy.report.pareto import candidates, comparable, frontier


def test_a_finished_run_is_told_whole(tmp_path: Path) -> None:
    facts = gather(make_run(tmp_path / "run"), "run")
    assert facts.plan is not None
    assert facts.plan.widths() == {name: kept for name, (_, kept) in KEPT.items()}
    assert [step["loss"] for step in facts.train_steps] == LOSSES
    assert [a.top1 for a in facts.accuracies] == [0.5, 0.25, 0.75]
    assert facts.final_accuracy is facts.accuracies[-1]
    assert facts.search is not None
    assert facts.search.probabilities == ((0.5, 0.5), (1.0, 0.25), (1.0, 1.0))
    assert facts.search.groups == tuple(KEPT)
    assert facts.search.kept_at == (1, 3)
    assert facts.search.kept == {"stem": (1.0, 0.75), "block.1": (0.5, 0.375), "last": (1.0, 1.0)}
    assert [p.what for p in facts.parities][-1] == "int8 ONNX file and torch"
    assert facts.parities[-1].snr_db == 31.25
    assert facts.unjudged == {"bf16": "no bf16 on a CPU"}
    assert [item.batches[0] for item in facts.engines] == [1, 8]
    assert (facts.lacks, facts.stale) == ({}, ())


PARTS = ("search", "slice", "train", "export", "bench", "layers", "precisions", "engines")


@pytest.mark.parametrize("number", range(len(STAGES)))
def test_what_is_missing_is_named_with_the_command_that_makes_it(
    number: int, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "my run", upto=STAGES[number])
    lacks = gather(folder, "run").lacks
    assert tuple(lacks) == PARTS[number + 1 :]
    for part, lack in lacks.items():
        command = {"layers": "bench", "precisions": "export", "engines": "engine"}.get(part, part)
        words = shlex.split(lack.command)
        assert words[:2] == ["dmcp-deploy", command]
        assert words[-1] == str(folder)


def test_a_search_under_way_lacks_its_plan_and_can_be_continued(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", upto="search")
    (folder / "plan.json").unlink()
    edit(folder / "run.json", "stages", value={})
    facts = gather(folder, "run")
    assert facts.lacks["plan"].command.startswith("dmcp-deploy search --model mobilenet_v2")
    assert (facts.search, facts.accuracies) == (None, ())
    assert len(facts.search_steps) == 4


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    with (folder / "metrics/train.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [step["loss"] for step in gather(folder, "run").train_steps] == LOSSES


def test_a_replaced_plan_makes_the_stages_that_read_it_stale(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    edit(folder / "plan.json", "macs", value=180)
    assert gather(folder, "run").stale == ("slice", "train", "export")


def test_a_copy_without_its_engines_says_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    shutil.rmtree(folder / "engines")
    facts = gather(folder, "run")
    assert facts.engines == ()
    assert "not in this copy" in facts.lacks["engines"].what


def test_rows_of_pinned_groups_are_missing_so_rows_are_numbered(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    edit(folder / "run.json", *FIGURES, "probabilities", value=[[0.5]])
    search = gather(folder, "run").search
    assert search is not None
    assert search.groups == ("searched group 1",)
    edit(folder / "run.json", *FIGURES, "groups", value=["stem"])
    named = gather(folder, "run").search
    assert named is not None
    assert named.groups == ("stem",)


FIGURES = ("stages", "search", "figures")
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no run": (lambda p: (p / "run.json").unlink(), "holds no run (no run.json)"),
    "other version": (lambda p: edit(p / "run.json", "schema_version", value=9), "version 9"),
    "no JSON": (lambda p: (p / "run.json").write_text("{"), "not readable as the JSON of a run"),
    "no versions": (lambda p: edit(p / "run.json", "versions", value=None), "run.json lacks or"),
    "a figure lost": (
        lambda p: edit(p / "run.json", *FIGURES, "full_accuracy", value={"top1": 0.5}),
        "run.json lacks or misstates 'loss'",
    ),
    "a figure of words": (
        lambda p: edit(p / "run.json", *FIGURES, "probabilities", value=[["a"]]),
        "run.json lacks or misstates 'probabilities': 'a' (a float is needed) in search",
    ),
    "more names than rows": (
        lambda p: edit(p / "run.json", *FIGURES, "groups", value=["stem"]),
        "run.json lacks or misstates 3 rows of probabilities for 1 groups",
    ),
    "figures of a number": (
        lambda p: edit(p / "run.json", *FIGURES, value=3),
        "run.json lacks or misstates",
    ),
    "a plan of another kind": (
        lambda p: shutil.copy(p / "bench.json", p / "plan.json"),
        "its kind is 'bench'",
    ),
    "no samples": (
        lambda p: edit(p / "bench.json", "measured", 0, "samples_ms", value=[]),
        "original has no latency samples",
    ),
    "a sample that is no number": (
        lambda p: edit(p / "bench.json", "measured", 0, "samples_ms", 0, value=float("nan")),
        "a latency sample of nan ms",
    ),
    "words among the metrics": (
        lambda p: (p / "metrics/train.jsonl").write_text('{"step": 0, "loss": "low"}\n'),
        "Line 1 of the metrics",
    ),
    "metrics of bytes": (
        lambda p: (p / "metrics/train.jsonl").write_bytes(b"\xff\xfe\x00"),
        "Cannot read the metrics",
    ),
    "another engine": (
        lambda p: next((p / "engines").glob("*.engine")).write_bytes(b"other"),
        "is not the engine its sidecar tells of",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_in_one_sentence(damage: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    harm, named = DAMAGES[damage]
    harm(folder)
    with pytest.raises(DmcpError) as refusal:
        gather(folder, "run")
    assert named in str(refusal.value)
    assert str(folder) in str(refusal.value)


def test_runs_of_one_name_are_told_apart_by_their_places(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / where / "run") for where in ("a", "b")]
    assert [facts.name for facts in gather_all(folders)] == [str(f) for f in folders]
    assert gather_all(folders[:1])[0].name == "run"


def test_a_run_given_twice_is_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    with pytest.raises(DmcpError, match="is given twice"):
        gather_all([folder, folder / ".." / "run"])


@pytest.fixture
def four_runs(tmp_path: Path) -> list[Path]:
    """One dominated by another, one from another machine, one without a measurement."""
    return [
        make_run(tmp_path / "small", macs=100, top1=0.70, median_ms=4.0),
        make_run(tmp_path / "worse", macs=150, top1=0.65, median_ms=5.0),
        make_run(tmp_path / "large", macs=190, top1=0.75, median_ms=6.0),
        make_run(tmp_path / "board", macs=120, top1=0.72, median_ms=1.0, cpu="a board"),
        make_run(tmp_path / "untimed", macs=110, top1=0.60, upto="export"),
    ]


def test_the_front_holds_the_runs_that_none_beats(four_runs: list[Path]) -> None:
    found = candidates(gather_all(four_runs))
    assert [c.name for c in frontier(found, lambda c: c.macs)] == ["small", "board", "large"]


def test_latencies_of_different_machines_are_not_compared(four_runs: list[Path]) -> None:
    timed = comparable(candidates(gather_all(four_runs)))
    assert [c.name for c in timed] == ["small", "worse", "large"]
    times = [c.latency.median_ms for c in timed if c.latency is not None]
    assert times == [4.5, 5.625, 6.75]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_run_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "run.json").chmod(0)
    with pytest.raises(DmcpError, match="Cannot read"):
        gather(folder, "run")
