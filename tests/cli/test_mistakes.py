"""Typing mistakes of a new user: the sentence names what was typed and what may have been meant."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from picture_folders import make_folder
from tiny_onnx import write_tiny_net
from tiny_runs import ENVIRONMENT, MODEL, asked, call, command_line, refused, snapshot

ASKED = ("--model", "resnet18", "--flops", "50%")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("prune", "--flop", "1G"), "prune has no option '--flop'; did you mean --flops?"),
        (("prune", *ASKED, "--batch_size", 8), "'--batch_size'; did you mean --batch-size?"),
        (("prune", *ASKED, "--Seed", 8), "'--Seed'; did you mean --seed?"),
        (("prune", *ASKED, "--image-size", 64), "'--image-size'; did you mean --input-size?"),
        (("prune", *ASKED, "--lr", 0.1), "'--lr'; did you mean --recipe FILE?"),
        (("prune", *ASKED, "-o", "runs/x"), "'-o'; did you mean --out?"),
        (("prune", "-model", "resnet18"), "'-model'; did you mean --model?"),
        (
            ("prune", *ASKED, "--quiet"),
            "'--quiet': dmcp-deploy prune --help lists those that it has.",
        ),
        (("search", *ASKED, "--engine", "auto"), "'--engine', which belongs to prune."),
        (
            ("train", "runs/a", "--epochs", 3),
            "'--epochs', which belongs to prune, search, compare, check (a run keeps what search",
        ),
        (("export", "runs/a", "--fp16"), "'--fp16'; did you mean --precision fp16?"),
        (("bench", "a.onnx", "--batch-size", 8), "did you mean --batch?"),
        (("report", "runs/a", "--json"), "did you mean --format json?"),
        (("plan", "show", "a", "--jsn"), "plan show has no option '--jsn'; did you mean --json?"),
        (("table", "build", "--count", 8), "belongs to table probes; did you mean --probes?"),
        (("--verison",), "dmcp-deploy has no option '--verison'; did you mean --version?"),
        (("prune", "resnet18"), "'--model': torchvision name, timm:NAME or module:function; did"),
        (("prune", "resnet18"), "did you mean --model resnet18?"),
        (("prune", "--model", "--flops", "50%"), "--model needs a value, before --flops."),
        (("prune", *ASKED, "--out", ""), "--out is empty: give a value or leave it out."),
        (("slice", ""), "Invalid value for 'RUN_DIR': it is empty: give a path"),
        (("slice", "a", "b"), "Got unexpected extra argument 'b': slice takes RUN_DIR."),
        (("doctor", "runs/a"), "'runs/a': doctor takes nothing beside its options."),
        (("plan", "diff", "a", "b", "--json", "yes"), "--json takes no value: leave 'yes' out."),
        (("prune", *ASKED, "--gpu-arch", "sm86"), "--gpu-arch needs --engine, which builds"),
        (("import", "a.npy"), "There is no command 'import': choose one of "),
        (("diff", "a", "b"), "; did you mean plan diff?"),
    ],
)
def test_words_that_are_not_understood_are_a_usage_error(words: tuple, sentence: str) -> None:
    result = call(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    said = result.stderr.rpartition("Error: ")[2]
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"flops": "211"}, "'211' has no unit: write it as 211M, 1.04G or 50%; did you mean 211M?"),
        ({"flops": "50"}, "did you mean 50% or 50M?"),
        ({"flops": "0.5"}, "did you mean 50%?"),
        ({"flops": "2GFLOPs"}, "'2GFLOPs' is not understood: .*; did you mean 2G?"),
        ({"flops": "300 MACs"}, "'300 MACs' is not understood: .*; did you mean 300M?"),
        ({"flops": "1e9"}, "did you mean 1G?"),
        ({"flops": "1,04G"}, "--flops '1,04G' separates two budgets: write one as 1.04G"),
        ({"flops": "50%;25%"}, "--flops '50%;25%' is not understood: write 50%,25%."),
        ({"flops": "50%,"}, "--flops '50%,' has an empty part"),
        (
            {"flops": "40M"},
            "40.0M multiply-adds (1323.1%) is above the full network: .* 199.8K to",
        ),
        ({"flops": "1%"}, "(199752 to 3023232), which is 6.7% to 100% of the network."),
        ({"model": "ResNet50"}, "did you mean resnet50?"),
        ({"model": "mobilenet-v2"}, "did you mean mobilenet_v2?"),
        ({"model": "torchvision.models.resnet18"}, "did you mean resnet18?"),
        ({"model": "torchvision:resnet18"}, "did you mean resnet18?"),
        ({"model": "./nets/mine.py:Net"}, "names a file: write its module instead, nets.mine:Net,"),
        ({"model": "mine.py"}, "write a function of yours as mine:FUNCTION."),
        ({"model": ":net"}, "':net' is not written as package.module:function."),
        ({"model": "model.onnx"}, "builds a network from code, and this is a file's name"),
        ({"method": "DMCP"}, "did you mean dmcp?"),
        ({"device": "gpu"}, "--device 'gpu' is unknown: choose auto, cpu, cuda or cuda:N; did you"),
        ({"device": "GPU1"}, "did you mean cuda:1?"),
        (
            {"precision": "fp-32"},
            "auto, fp32, bf16 to train in; did you mean fp32?",
        ),
        ({"weights": "ImageNet"}, "did you mean imagenet?"),
        (
            {"input-size": "32x32"},
            "'32x32' is not understood: give a whole number, or a shape with --input",
        ),
        ({"epochs": "ten"}, "--epochs 'ten' is not understood: give a number."),
        ({"threads": 10_000}, "cores that this process may use: give"),
        ({"engine": "trt"}, "--engine 'trt' is unknown: .*did you mean tensorrt?"),
        ({"engine": "auto", "engine-precision": "int4"}, "--engine-precision 'int4' is unknown"),
        ({"data": "cifar10"}, "did you mean torchvision:CIFAR10?"),
    ],
)
def test_a_value_that_is_not_understood_is_refused_at_once(
    options: dict[str, object], sentence: str, tiny_folder: Path, tmp_path: Path
) -> None:
    said = refused(*asked("prune", tiny_folder, tmp_path / "run", **options))
    assert all(part in said for part in sentence.split(".*")), said
    assert not list(tmp_path.iterdir())


def test_a_timm_name_is_told_with_its_prefix() -> None:
    pytest.importorskip("timm")
    assert "did you mean timm:resnet18?" in refused("groups", "--model", "timm/resnet18")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("train", "run/plan.json"), "plan.json is a file, and a run directory is needed; did you"),
        (("slice", "run/checkpoints"), "checkpoints holds no run (no run.json); did you mean"),
        (("report", "Run"), "start one with search; did you mean run?"),
        (("report", "run", "--out", "plan.json"), "plan.json would be lost: name a file that ends"),
        (("report", "run", "--format", "HTML"), "did you mean html?"),
        (("bench", "net.onnx", "--save", "plan.json"), "plan.json would be lost (plan.json is not"),
        (("bench", "net.onnx", "--save", "net.onnx"), "net.onnx would be lost (net.onnx is not"),
        (("bench", "notes.txt"), "; give an ONNX file, an engine or a run."),
        (("bench", "net.onnx", "--against", "net.onnx", "--max-regress", 5), "such as 5%"),
        (("plan", "show", "plan.jsn"), "There is no plan file plan.jsn; did you mean plan.json?"),
        (("bench", "Net.onx"), "There is no ONNX file Net.onx; did you mean net.onnx?"),
        (("plan", "show", "net.onnx"), "not readable as the JSON of a plan: it is no text."),
        (("plan", "show", "notes.json"), "its kind is not told"),
        (("flops", "--model", MODEL, "--plan", "run"), "run is a folder, and a plan file is need"),
        (("table", "predict", "run", "plan.json"), "run is a folder, and a latency-table file is"),
        (("table", "build"), "There is no folder 16 of probe networks: name their network with"),
        (("table", "build", "--model", MODEL, "--out", "plan.json"), "plan.json would be lost"),
        (("table", "probes", "--model", MODEL, "--out", "run"), "run holds files, and no probe"),
        (("table", "probes", "--model", MODEL, "--out", "x", "--count", 1), "--count 1 must lie"),
        (("export", "run", "--precision", "fp16;int8"), "write fp16,int8, with commas."),
        (("export", "run", "--precision", "fp-16"), "did you mean fp16?"),
        (("check", "--model", MODEL, "--classes", 0), "--classes 0 is too small"),
        (("prune", *ASKED, "--out", "notes.txt/run", "--data", "pictures"), "txt is not a folder"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_none_is_lost(
    words: tuple, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    release = Path(__file__).parents[1] / "artifacts" / "release_0_1_0" / "run"
    shutil.copytree(release, "run")
    Path("run/checkpoints").mkdir(exist_ok=True)
    shutil.copy("run/plan.json", "plan.json")
    write_tiny_net(Path("net.onnx"))
    make_folder(Path("pictures"), train=2)
    Path("notes.txt").write_text("text")
    Path("notes.json").write_text("{}")
    before = snapshot(Path())
    assert sentence in refused(*words)
    assert snapshot(Path()) == before


@pytest.mark.parametrize("command", ["prune", "bench", "table build"])
def test_help_takes_little_time_of_the_processor(command: str) -> None:
    """CPU time, which other work on the machine does not lengthen as it does the waiting."""
    before = os.times()
    done = subprocess.run(
        command_line(*command.split(), "--help"), env=ENVIRONMENT, capture_output=True, check=True
    )
    after = os.times()
    assert done.stdout
    spent_s = sum(after[2:4]) - sum(before[2:4])  # the children's, user and system
    assert spent_s < 0.3
