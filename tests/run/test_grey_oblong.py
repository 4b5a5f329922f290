"""A whole run on grey, oblong pictures of 12 bits: from the folder to an INT8 engine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from deep_pictures import write_folder, write_whole
from shaped_nets import METER_MACS
from tiny_runs import refused, succeed

import dmcp_deploy
from dmcp_deploy.extras import is_installed
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.run import api
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.runtimes.engine_record import EngineRecord
from dmcp_deploy.runtimes.onnxruntime import OnnxSession

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("grey")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "x", ".png", write_whole(4095), count=40)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    out = tmp_path_factory.mktemp("runs") / "run"
    asked = ("--model", "shaped_nets:Meter", "--input", "1x24x40", "--data", data, "--out", out)
    small = ("--batch-size", 8, "--max-steps", 6, "--align", 4, "--seconds", 0.2)
    succeed("prune", *asked, *small, "--flops", "60%")
    succeed("export", out, "--precision", "fp16,int8", "--calibration", 32)
    return RunDir(out)


def test_the_plan_and_the_accuracy_are_those_of_the_input(run: RunDir) -> None:
    plan = ChannelPlan.load(run.file("plan.json"))
    assert plan.network.input_shape == (1, 24, 40)
    assert plan.full_macs == METER_MACS - 3 * 24 + 2 * 24  # for two classes
    assert run.figures("train")["accuracy"]["image_size"] == "24x40"


def test_every_file_takes_one_channel_and_says_what_to_feed(run: RunDir) -> None:
    images = np.zeros((2, 1, 24, 40), np.float32)
    for name in ("model.onnx", "original.onnx", "model.fp16.onnx", "model.int8.onnx"):
        with OnnxSession(run.file(name)) as session:
            assert session.run(images).shape == (2, 2)
        metadata = {p.key: p.value for p in onnx.load(run.file(name)).metadata_props}
        told = json.loads(metadata["input"])
        assert (told["shape"], told["channel_order"], told["white"]) == ([1, 24, 40], "grey", 4095)
        assert told["classes"] == ["bright", "dim"]
    assert run.figures("precision int8")["images"] == 64  # a trial's one batch


def test_the_page_tells_what_to_feed_and_repeats_the_command(run: RunDir) -> None:
    succeed("report", run.path)
    page = run.file("report.html").read_text()
    for words in ("divide by 4095", "grey, by luminance", "24x40 px", "bright, dim", "1x24x40"):
        assert words in page, words
    told = json.loads(succeed("report", run.path, "--format", "json"))
    (facts,) = told["runs"]
    assert any("--input 1x24x40" in command for command in facts["commands"])
    assert facts["accuracies"][-1]["image_size"] == "24x40"


def test_the_network_is_loaded_measured_and_gated(run: RunDir) -> None:
    import torch

    assert dmcp_deploy.load(run.path)(torch.zeros(1, 1, 24, 40)).shape == (1, 2)
    record = api.bench(run.path, seconds=0.2, runtime="torch")
    assert record.input_shape == (1, 24, 40)


@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="TensorRT-RTX is not installed")
def test_an_int8_engine_is_built_whose_sidecar_says_what_to_feed(run: RunDir) -> None:
    options = ("--runtime", "tensorrt-rtx", "--gpu-arch", "sm86", "--precision", "int8")
    succeed("engine", run.path, *options)
    (engine,) = run.file("engines").glob("*.engine")
    record = EngineRecord.load(engine)
    assert record.precision == "int8"
    assert record.input_shape == (1, 24, 40)
    assert record.input == run.input()
    succeed("report", run.path)


def test_training_at_another_size_is_refused_where_a_layer_fixes_it(data, tmp_path: Path) -> None:
    asked = ("--model", "shaped_nets:Meter", "--input", "1x24x40", "--data", data)
    more = ("--batch-size", 8, "--train-size", 18, "--flops", "60%", "--out", tmp_path / "run")
    told = refused("search", *asked, *more)
    assert "does not train on batches of 8 images of 18x30 px" in told
    assert not (tmp_path / "run").exists()


def test_an_oblong_network_in_colour_trains_at_a_smaller_size(data, tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = ("--model", "shaped_nets:Banner", "--input", "3x32x96", "--data", data, "--out", out)
    more = ("--batch-size", 8, "--max-steps", 2, "--train-size", 16, "--seconds", 0.1)
    succeed("prune", *asked, *more, "--flops", "60%", "--augment-on", "device")
    figures = RunDir(out).figures("train")
    assert figures["accuracy"]["image_size"] == "16x48"
    assert figures["deployed_accuracy"]["image_size"] == "32x96"
