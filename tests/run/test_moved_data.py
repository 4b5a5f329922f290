"""Data that lies elsewhere than when the run was begun: the same digest is the same data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
from deep_pictures import write_folder, write_whole
from picture_folders import make_folder, make_picture
from tiny_runs import asked, library, refused, snapshot, succeed

import dmcp_deploy
from dmcp_deploy.options.run import Compute
from dmcp_deploy.rundir.directory import RunDir


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Path, Path]:
    """A run that has a plan, and the place that its data has moved to since."""
    there = make_folder(tmp_path / "there", train=8, val=3)
    out = tmp_path / "run"
    dmcp_deploy.run.search(**library(there, out, method="uniform"))
    return out, there.rename(tmp_path / "moved")


def test_later_stages_take_data_that_has_moved_and_find_it_again(begun):
    run, moved = begun
    there = RunDir(run).request().data
    told = refused("train", run)
    assert told == (
        f"The data of the run in {run} is no longer at {moved.parent / 'there'}: name where it lies"
        " now with --data."
    )
    succeed("slice", run, "--data", moved)
    assert RunDir(run).data_place() == f"folder:{moved}"
    assert RunDir(run).request().data == there
    succeed("train", run)
    moved.rename(moved.parent / "again")
    dmcp_deploy.run.export(run, compute=Compute(moved_data=str(moved.parent / "again")))
    shutil.copytree(moved.parent / "again", moved.parent / "there")
    succeed("slice", run, "--data", moved.parent / "there")  # done already: the place is taken over
    assert RunDir(run).data_place() is None


def test_a_search_goes_on_where_its_data_lies_now(begun):
    run, moved = begun
    token = RunDir(run).request().token()
    dmcp_deploy.run.search(**library(moved, run, method="uniform"))
    assert RunDir(run).request().token() == token
    assert RunDir(run).data_place() == f"folder:{moved}"
    succeed("slice", run)
    assert f"--data {RunDir(run).data_place()}" in succeed("report", run, "--format", "md")


def test_an_unfinished_search_goes_on_from_its_checkpoint(tmp_path):
    there = make_folder(tmp_path / "there", train=8, val=3)
    whole = dmcp_deploy.run.search(**library(there, tmp_path / "whole"))
    run = dmcp_deploy.run.search(**library(there, tmp_path / "run"))
    run.file("plan.json").unlink()
    content = json.loads(run.file("run.json").read_text())
    run.file("run.json").write_text(json.dumps({**content, "stages": {}}))
    before = run.file("checkpoints/search.safetensors").read_bytes()
    moved = there.rename(tmp_path / "moved")
    dmcp_deploy.run.search(**library(moved, tmp_path / "run"))
    assert run.file("checkpoints/search.safetensors").read_bytes() == before
    assert run.file("plan.json").read_bytes() == whole.file("plan.json").read_bytes()


def test_another_budget_takes_over_a_search_on_data_that_has_moved(tmp_path):
    there = make_folder(tmp_path / "there", train=8, val=3)
    lender = dmcp_deploy.run.search(**library(there, tmp_path / "lender"))
    moved = there.rename(tmp_path / "moved")
    compute = Compute(supernet=lender.path)
    run = dmcp_deploy.run.search(**library(moved, tmp_path / "other", flops="40%", compute=compute))
    assert run.request().data == lender.request().data
    assert run.data_place() == f"folder:{moved}"
    succeed("slice", run.path)


@pytest.mark.parametrize("stage", ["slice", "train", "export", "search"])
def test_other_data_is_refused(begun, stage):
    run, moved = begun
    make_picture(99, (60, 60)).save(moved / "train" / "cat" / "new.png")
    before = snapshot(run)
    if stage == "search":
        told = refused(*asked("search", moved, run, method="uniform"))
        assert "holds a run with other settings (data: folder:" in told
    else:
        told = refused(stage, run, "--data", moved)
        assert told == (
            f"The data folder:{moved} is not what the run in {run} was begun on"
            f" ({RunDir(run).request().data}: other files, sizes or labels): restore it, name where"
            " it lies now with --data, or choose another --out."
        )
    assert snapshot(run) == before


def test_a_run_that_an_older_release_began_on_dark_pictures_is_refused(tmp_path):
    data = write_folder(tmp_path / "data", ".png", write_whole(4095), count=8)
    run = dmcp_deploy.run.search(**library(data, tmp_path / "run", method="uniform"))
    content = json.loads(run.file("run.json").read_text())
    del content["input"]
    run.file("run.json").write_text(json.dumps(content))
    assert "as nearly black, and white is at 4095: begin anew" in refused("slice", run.path)


@pytest.mark.xdist_group("run")
def test_what_to_feed_lies_beside_the_run_and_in_every_file(finished_run: Path):
    fed = RunDir(finished_run).input()
    assert fed is not None
    assert (fed.shape, fed.channel_order, fed.layout) == ((3, 32, 32), "RGB", "NCHW")
    assert (fed.resizing, fed.resize_to, fed.white) == ("crop", (36, 36), 255)
    assert (fed.mean[0], fed.std[0]) == (0.485, 0.229)
    assert fed.classes == ("cat", "dog", "owl")
    for name in ("model.onnx", "original.onnx"):
        metadata = {p.key: p.value for p in onnx.load(finished_run / name).metadata_props}
        told = json.loads(metadata["input"])
        assert told["classes"] == ["cat", "dog", "owl"]
        assert told["resize_to"] == [36, 36]
    told = succeed("report", finished_run, "--format", "md")
    assert "covers 36x36 (height x width), take the middle 32x32; bilinear" in told
    assert "subtract 0.485, 0.456, 0.406, divide by 0.229, 0.224, 0.225" in told
