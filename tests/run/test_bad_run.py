"""Files of a run that are not as they should be: one sentence, nothing half-written."""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from picture_folders import truncate
from tiny_runs import MODEL, asked, library, refused, snapshot, succeed

import dmcp_deploy

# One worker makes the run without training, and the finished one, for all of these tests.
pytestmark = pytest.mark.xdist_group("run")


@pytest.fixture(scope="session")
def planned_run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has a plan and nothing else; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "planned"
    return dmcp_deploy.run.search(**library(tiny_folder, out, method="uniform")).path


@pytest.fixture
def run(planned_run: Path, tmp_path: Path) -> Path:
    """A run that has a plan and nothing else."""
    return Path(shutil.copytree(planned_run, tmp_path / "run"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("stage", ["slice", "train", "export"])
@pytest.mark.parametrize("there", [False, True])
def test_a_stage_on_no_run_is_refused(stage: str, there: bool, tmp_path: Path) -> None:
    folder = tmp_path if there else tmp_path / "absent"
    named = "holds no run (no run.json)" if there else f"There is no run directory {folder}"
    assert named in refused(stage, folder)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["slice", "train", "export"])
def test_a_stage_without_a_plan_is_refused(stage: str, run: Path) -> None:
    (run / "plan.json").unlink()
    before = snapshot(run)
    assert "has no plan.json yet: run search first" in refused(stage, run)
    assert snapshot(run) == before


def test_export_before_training_is_refused(run: Path) -> None:
    before = snapshot(run)
    assert "has no dense.safetensors yet: run train first" in refused("export", run)
    with pytest.raises(dmcp_deploy.DmcpError, match=r"has no dense\.safetensors yet"):
        dmcp_deploy.load(run)
    assert snapshot(run) == before


def test_bench_before_export_is_refused(run: Path) -> None:
    before = snapshot(run)
    assert "has no model.onnx yet: run export first" in refused("bench", run)
    assert snapshot(run) == before


def of_another_model(plan: dict[str, Any]) -> None:
    plan["model"]["name"] = "resnet18"


def of_other_classes(plan: dict[str, Any]) -> None:
    plan["model"]["num_classes"] = 1000


def without_a_group(plan: dict[str, Any]) -> None:
    del plan["groups"]["last.0"]


def with_a_foreign_group(plan: dict[str, Any]) -> None:
    plan["groups"]["layer1.0"] = {"size": 8, "keep": 4}


def too_wide(plan: dict[str, Any]) -> None:
    plan["groups"]["stem.0"]["keep"] = 25


def with_wrong_params(plan: dict[str, Any]) -> None:
    plan["params"] += 1


def without_its_macs(plan: dict[str, Any]) -> None:
    del plan["macs"]


def of_a_newer_release(plan: dict[str, Any]) -> None:
    plan["schema_version"] = 99


@pytest.mark.parametrize("stage", ["slice", "train"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (of_another_model, r"is a plan of resnet18 x1 for 3 classes .* and the run is of tiny"),
        (of_other_classes, r"is a plan of .* for 1000 classes on 3x32x32 inputs, and the run"),
        (without_a_group, r"does not fit .*group 'last.0' has no channels in the plan"),
        (with_a_foreign_group, r"does not fit .*group 'layer1.0' has 8 channels in the plan and"),
        (too_wide, r"is not valid: groups.stem.0: A group of 24 channels cannot keep 25"),
        (with_wrong_params, r"The sliced network has \d+ parameters, and its plan \d+"),
        (without_its_macs, r"lacks or misstates 'macs'"),
        (of_a_newer_release, r"has schema version 99, and this release reads 1"),
    ],
)
def test_a_plan_that_is_not_the_runs_is_refused(
    change: Callable[[dict[str, Any]], None], named: str, stage: str, run: Path
) -> None:
    plan = json.loads((run / "plan.json").read_text())
    change(plan)
    (run / "plan.json").write_text(json.dumps(plan))
    before = snapshot(run)
    sentence = refused(stage, run)
    assert re.search(named, sentence), sentence
    assert snapshot(run) == before


def test_a_damaged_plan_is_refused_by_every_command_that_reads_it(
    run: Path, tiny_folder: Path
) -> None:
    truncate(run / "plan.json")
    before = snapshot(run)
    for words in (
        ["slice", run],
        ["train", run],
        ["export", run],
        asked("prune", tiny_folder, run, method="uniform"),
        ["flops", "--model", MODEL, "--plan", run / "plan.json"],
    ):
        assert "plan.json is not readable as the JSON of a plan" in refused(*words)
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schema_version": 2}, r"run.json has schema version 2, and this release reads 1"),
        ({"kind": "plan"}, r"run.json is not a run file: its kind is 'plan'"),
        ({"request": {}}, r"run.json lacks or misstates"),
        ({"stages": []}, r"run.json lacks or misstates 'stages'"),
    ],
)
def test_a_run_of_another_release_or_kind_is_refused(
    changes: dict[str, Any], named: str, run: Path, tiny_folder: Path
) -> None:
    edit(run / "run.json", **changes)
    before = snapshot(run)
    for words in (["train", run], asked("prune", tiny_folder, run, method="uniform")):
        sentence = refused(*words)
        assert re.search(named, sentence), sentence
    assert snapshot(run) == before


def test_a_truncated_record_of_the_run_is_refused(run: Path) -> None:
    truncate(run / "run.json")
    assert "run.json is not readable as the JSON of a run" in refused("train", run)


def test_a_truncated_checkpoint_is_refused(run: Path) -> None:
    succeed("train", run)
    (run / "dense.safetensors").unlink()
    truncate(run / "checkpoints" / "train.safetensors")
    before = snapshot(run)
    sentence = refused("train", run)
    assert re.search(r"checkpoint .* is damaged .*: delete it to start this stage again", sentence)
    assert snapshot(run) == before
    (run / "checkpoints" / "train.safetensors").unlink()
    succeed("train", run)


def test_a_checkpoint_of_another_run_is_refused(
    run: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    other = library(tiny_folder, tmp_path / "other", method="uniform", seed=1)
    dmcp_deploy.train(dmcp_deploy.run.search(**other).path)
    shutil.copytree(tmp_path / "other" / "checkpoints", run / "checkpoints")
    assert "belongs to a run with other settings" in refused("train", run)
    assert not (run / "dense.safetensors").exists()


@pytest.mark.parametrize("largest_bytes", [50_000, 20_000, 100])
def test_a_full_disk_is_told_and_leaves_whole_files(largest_bytes: int, run: Path) -> None:
    before = set(snapshot(run))
    with file_size_limit(largest_bytes):
        sentence = refused("train", run)
    assert re.search(r"Cannot write .*(safetensors|jsonl|json): .*File too large", sentence)
    assert set(snapshot(run)) - before <= {"metrics/train.jsonl"}
    succeed("train", run)


@contextmanager
def file_size_limit(largest_bytes: int) -> Iterator[None]:
    """Makes every file that grows beyond a size fail as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_truncated_weights_of_the_pruned_network_are_refused(run: Path) -> None:
    succeed("train", run)
    truncate(run / "dense.safetensors")
    assert "dense.safetensors is damaged" in refused("export", run)
    assert not (run / "model.onnx").exists()


@pytest.mark.parametrize("stage", ["slice", "export"])
def test_a_truncated_supernet_is_refused(stage: str, finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    truncate(run / "supernet.safetensors")
    (run / "model.onnx").unlink()
    before = snapshot(run)
    assert "supernet.safetensors is damaged" in refused(stage, run)
    assert snapshot(run) == before


def test_a_missing_supernet_is_refused(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    (run / "supernet.safetensors").unlink()
    assert re.search(r"supernet.safetensors is missing: run search again", refused("slice", run))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--batch", "x"], r"--batch 'x' is not understood: give dynamic or a number"),
        (["--batch", "0"], r"--batch '0' is not understood: give dynamic or a number"),
        (["--batch", "1,2"], r"--batch '1,2' is not understood: give dynamic or a number"),
        (["--opset", "9"], r"opset is 9, and the exporter writes 18 or newer"),
    ],
)
def test_a_bad_export_is_refused_and_keeps_the_files(
    arguments: list[str], named: str, finished_run: Path
) -> None:
    before = snapshot(finished_run)
    sentence = refused("export", finished_run, *arguments)
    assert re.search(named, sentence), sentence
    assert snapshot(finished_run) == before


def test_bench_of_no_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no network")
    assert "There is no ONNX file" in refused("bench", tmp_path / "absent.onnx")
    assert "cannot be loaded as ONNX" in refused("bench", tmp_path / "text.onnx")
    assert refused("bench").startswith("Missing argument")


def test_bench_of_files_outside_a_run_is_refused_before_it_measures(
    finished_run: Path, tmp_path: Path
) -> None:
    for name in ("model.onnx", "original.onnx"):
        shutil.copy(finished_run / name, tmp_path / name)
    assert "holds no run (no run.json)" in refused("bench", tmp_path)
    assert set(snapshot(tmp_path)) == {"model.onnx", "original.onnx"}
