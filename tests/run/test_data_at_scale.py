"""A whole run on shards, with random crops on the device and averaged weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from picture_shards import make_shards
from safetensors.torch import load_file
from tiny_runs import library

import dmcp_deploy
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.run import Budgets, Compute, RunOptions
from dmcp_deploy.run.context import RunContext
from dmcp_deploy.run.resolve import make_request
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.training.dense import AVERAGE


@pytest.fixture
def shards(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"webdataset:{make_shards(tmp_path / 'shards', tiny_folder)}"


def request(data: str, **changes: object) -> RunRequest:
    options = RunOptions(data=data, input_size=32, **changes)
    return make_request("resnet18", Budgets("50%"), options, Compute(device="cpu"))


def test_where_crops_are_made_is_part_of_the_request(shards: str) -> None:
    host, device = (request(shards, augment_on=place) for place in ("host", "device"))
    assert "augment_on" not in host.to_json()
    assert RunRequest.from_json(host.to_json()) == host
    assert RunRequest.from_json(json.loads(json.dumps(device.to_json()))) == device
    assert host.difference(device) == "augment_on: host there, device asked for"
    assert host.token() != device.token()
    with pytest.raises(DmcpError, match="--augment-on"):
        RunOptions(augment_on="gpu")


def test_a_runs_data_is_cropped_where_it_was_asked(shards: str, tmp_path: Path) -> None:
    for place, kind in (("host", "imagenet"), ("device", "views")):
        asked = request(shards, augment_on=place)
        images = RunContext(RunDir(tmp_path), asked, Compute(device="cpu")).data.images
        assert images.augmentation == kind
        assert images.digest == asked.data_digest


@pytest.mark.slow
def test_a_run_on_shards_saves_the_average_of_its_weights(shards: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"ema_decay": 0.5, "recalibration_batches": 2}))
    options = library(Path("-"), tmp_path / "run", recipe=str(recipe), augment_on="device")
    run = dmcp_deploy.run.search(**{**options, "data": shards})
    dmcp_deploy.train(run.path)
    saved = load_file(run.file("dense.safetensors"))
    state = load_file(run.file("checkpoints/train.safetensors"))
    average = {name.removeprefix(AVERAGE): t for name, t in state.items() if AVERAGE in name}
    # So few steps leave running statistics behind, which are then computed anew.
    average = {name: t for name, t in average.items() if ".running_" not in name}
    assert len(average) > 4
    assert all(torch.equal(saved[name], tensor) for name, tensor in average.items())
    assert any(not torch.equal(saved[name], state[f"model.{name}"]) for name in average)
