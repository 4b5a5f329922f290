"""`dmcp-deploy report`: where it writes, what it refuses, and that its commands are true."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
from report_runs import make_run
from tiny_runs import refused, snapshot, succeed

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.report.gather import gather
from dmcp_deploy.report.reproduce import recipe_file


def test_the_page_of_one_run_goes_into_its_directory(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    assert succeed("report", folder) == f"{folder / 'report.html'}\n"
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_the_page_of_several_runs_goes_into_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [make_run(tmp_path / name) for name in ("a", "b")]
    monkeypatch.chdir(tmp_path)
    assert succeed("report", *folders) == "report.html\n"
    assert "2 runs side by side" in (tmp_path / "report.html").read_text()


def test_markdown_and_json_are_printed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    before = snapshot(folder)
    assert succeed("report", folder, "--format", "md").startswith("# run\n")
    assert json.loads(succeed("report", folder, "--format", "json"))["kind"] == "report"
    assert snapshot(folder) == before


def test_out_names_the_file_and_its_folder_is_made(tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.md"
    assert succeed("report", make_run(tmp_path / "run"), "--format", "md", "--out", out) == (
        f"{out}\n"
    )
    assert out.read_text().startswith("# run\n")


def test_what_cannot_be_had_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    assert "There is no run directory" in refused("report", tmp_path / "absent")
    assert "holds no run (no run.json)" in refused("report", tmp_path)
    assert "--format 'pdf' is unknown: choose one of html, md, json" in refused(
        "report", folder, "--format", "pdf"
    )
    assert "is given twice" in refused("report", folder, folder)
    assert "Missing argument 'RUN_DIRS...'" in refused("report")
    assert "Cannot write" in refused("report", folder, "--out", tmp_path)
    assert "is not a folder" in refused("report", folder, "--out", folder / "run.json" / "x.html")
    assert not (folder / "report.html").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_run_that_may_not_be_written_to_is_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    folder.chmod(0o500)
    assert "Cannot write" in refused("report", folder)


def test_a_bad_run_leaves_the_last_report_as_it_was(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    succeed("report", folder)
    digest = digest_file(folder / "report.html")
    (folder / "bench.json").write_text("{}")
    assert "its kind is not told" in refused("report", folder)
    assert digest_file(folder / "report.html") == digest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"distill": True}, ["--distill"]),
        ({"weights": "imagenet"}, ["--weights", "imagenet"]),
        ({"init": "sliced"}, ["--init", "sliced"]),
        ({"max_steps": 7}, ["--max-steps", "7"]),
        ({"sampling": "markov"}, ["--sampling", "markov"]),
        ({"data": "my pictures"}, ["--data", "my pictures"]),
    ],
)
def test_what_was_asked_stands_in_the_command(
    changes: dict[str, object], words: list[str], tmp_path: Path
) -> None:
    prune, export, engine = gather(make_run(tmp_path / "run", **changes), "run").commands
    given = shlex.split(prune)
    assert given[:6] == ["dmcp-deploy", "prune", "--model", "mobilenet_v2", "--flops", "200"]
    assert " ".join(words) in " ".join(given)
    assert "--input-size 64" in prune
    assert "--batch 1,8 --threads 1 --seconds 0.5" in prune
    assert export == f"dmcp-deploy export --precision int8,bf16 --calibration 48 {tmp_path}/run"
    assert engine == (
        "dmcp-deploy engine --runtime tensorrt-rtx --precision int8 --batch 1,8 --gpu-arch sm86"
        f" {tmp_path}/run"
    )


@pytest.mark.xdist_group("run")
def test_the_commands_ask_for_the_very_same_run(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    facts = gather(folder, "run")
    (tmp_path / "recipe.json").write_text(recipe_file(facts.request))
    monkeypatch.chdir(tmp_path)
    before = snapshot(folder)
    (command,) = facts.commands
    # Another request would be refused, and what is not done yet would be done.
    succeed(*shlex.split(command)[1:])
    assert snapshot(folder) == before


@pytest.mark.xdist_group("run")
def test_a_real_run_has_a_report(finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    succeed("report", finished_run, "--out", out)
    page = out.read_text()
    for part in ("run1-channels", "run1-expected", "run1-loss", "run1-top1", "run1-latency"):
        assert f'id="{part}"' in page
