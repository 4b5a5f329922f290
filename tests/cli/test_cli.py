"""The command line: help, typing mistakes, libraries that are not there, what is printed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import click
import pytest
from tiny_runs import ENVIRONMENT, MODEL, asked, call, command_line, succeed

import dmcp_deploy
from dmcp_deploy.cli.main import main
from dmcp_deploy.plan import ChannelPlan

COMMANDS = [
    *("bench", "certify", "check", "compare", "doctor", "engine", "export", "flops", "groups"),
    *("plan", "prune", "report", "search", "slice", "table", "train"),
]


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_the_commands_and_states_the_convention(option: str) -> None:
    text = succeed(option)
    assert [line.split()[0] for line in text.partition("Commands:\n")[2].splitlines()] == COMMANDS
    assert "multiply-adds of convolution and linear layers" in " ".join(text.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does_and_explains_its_options(command: str) -> None:
    assert succeed(command, "--help").startswith(f"Usage: main {command} [OPTIONS]")
    found = main.commands[command]
    assert (found.help or "").splitlines()[0].endswith(".")
    assert all(p.help for p in found.params if isinstance(p, click.Option))


def test_version_is_the_packages() -> None:
    assert succeed("--version") == f"dmcp-deploy, version {dmcp_deploy.__version__}\n"


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        command_line("--version"), env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"dmcp-deploy, version {dmcp_deploy.__version__}\n"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["prnue"], "There is no command 'prnue': choose one of bench, certify, check, compare,"),
        (["prnue"], "; did you mean prune"),
        (["zzz"], "prune, report, search, slice, table, train."),
        (["prune", "--flop", "1G"], "prune has no option '--flop'; did you mean --flops?"),
        (["prune", "--flops", "1G"], "Missing option '--model'"),
        (["prune", "--model", "resnet18", "--flops"], "Option '--flops' requires an argument"),
        (["slice"], "Missing argument 'RUN_DIR'"),
        (["slice", "a", "b"], "Got unexpected extra argument 'b': slice takes RUN_DIR."),
    ],
)
def test_a_typing_mistake_is_a_usage_error(words: list[str], named: str) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert not result.stdout
    _, _, sentence = result.stderr.rpartition("Error: ")
    assert named in sentence
    assert sentence.count("\n") == 1


def test_without_a_command_the_help_is_shown() -> None:
    result = call()
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: main [OPTIONS] COMMAND")


@pytest.mark.xdist_group("run")
def test_a_recipe_may_set_the_run_and_options_come_before_it(
    tiny_folder: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.json"
    run = {"model": MODEL, "flops": "40%", "input_size": 32, "method": "uniform", "align": 16}
    recipe.write_text(json.dumps({"base": "small", "run": run}))
    words = ["search", "--data", tiny_folder, "--recipe", recipe, "--batch-size", 8]
    succeed(*words, "--out", tmp_path / "a")
    succeed(*words, "--out", tmp_path / "b", "--flops", "30%")
    plans = [ChannelPlan.load(tmp_path / name / "plan.json") for name in ("a", "b")]
    assert [plan.align for plan in plans] == [16, 16]
    assert [plan.budget_macs for plan in plans] == [3_023_232 * 4 // 10, 3_023_232 * 3 // 10]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"run": {"modle": "resnet18"}}, "sets 'modle' of the run: it may set model, flops,"),
        ({"run": {"modle": "resnet18"}}, "; did you mean model, method?"),
        ({"run": "resnet18"}, "must have an object as its run, not 'resnet18'."),
        (
            {"run": {"model": "resnet18", "flops": "1G", "input_size": "big"}},
            "--input-size 'big' is not understood: give a whole number",
        ),
        ({"run": {"model": "resnet18", "flops": 0}}, "FLOPs budget '0' must be above zero"),
    ],
)
def test_a_recipe_that_sets_the_run_badly_is_refused(
    content: object, named: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(content))
    words = ["--model", "resnet18", "--flops", "1G"] if "modle" in str(content) else []
    result = call("search", *words, "--recipe", recipe, "--out", tmp_path / "run")
    assert result.exit_code in (1, 2)
    _, _, sentence = result.stderr.rpartition("Error: ")
    assert named in sentence
    assert sentence.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.xdist_group("run")
def test_a_finished_run_is_summed_up(finished_run: Path, tiny_folder: Path) -> None:
    lines = succeed(*asked("prune", tiny_folder, finished_run, seconds=0.2)).splitlines()
    assert lines[0].startswith(f"{finished_run}: {MODEL} 3.0M -> 7")
    assert lines[0].endswith("of the budget of 755.8K multiply-adds")
    assert lines[1].endswith("at 32 px on 24 images  full network after the search")
    assert lines[2].endswith("pruned, before its training")
    assert lines[3].endswith("pruned, trained")
    assert lines[4] == "top-1  33.33%  always the most frequent class"
    assert lines[5].startswith("supernet = sliced network to ")
    assert lines[6].startswith("ONNX Runtime = torch to ")
    assert [line.split()[0] for line in lines[8:]] == ["network", "original", "pruned"]


@pytest.mark.xdist_group("run")
def test_progress_goes_to_standard_error_alone(tiny_folder: Path, tmp_path: Path) -> None:
    result = call(*asked("search", tiny_folder, tmp_path / "run", method="uniform"))
    assert result.stderr.startswith(f"Data: Image folder {tiny_folder}: 48 training and 24 ")
    assert [line for line in result.stdout.splitlines() if "Data" in line or "%|" in line] == []
    again = call(*asked("search", tiny_folder, tmp_path / "run", method="uniform"))
    assert again.stdout == result.stdout


# What pip would leave out, seen from a process that has the other libraries alone.
SITE = Path(sysconfig.get_path("purelib"))
WITH_CLICK = ("click", "numpy", "numpy.libs", "tqdm")
SEARCH = "torch is not installed: run pip install 'dmcp-deploy[search]'."


@pytest.fixture(scope="session")
def bare_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of libraries that holds what `pip install dmcp-deploy` alone brings."""
    folder = tmp_path_factory.mktemp("bare")
    for name in WITH_CLICK:
        if (SITE / name).exists():
            (folder / name).symlink_to(SITE / name)
    return folder


@pytest.fixture(scope="session")
def site_without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all installed libraries but torch and its kin, and onnxscript."""
    folder = tmp_path_factory.mktemp("without")
    for path in SITE.iterdir():
        if not path.name.startswith(("torch", "functorch", "onnxscript", "timm", "_")):
            (folder / path.name).symlink_to(path)
    return folder


def run_with(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process that finds no library but those in a folder."""
    path = os.pathsep.join([ENVIRONMENT["PYTHONPATH"], str(site)])
    return subprocess.run(
        [sys.executable, "-S", *command_line(*arguments)[1:]],
        env={**ENVIRONMENT, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["prune", "--model", "resnet18", "--flops", "1G", "--out", "OUT"],
        ["search", "--model", "resnet18", "--flops", "1G", "--out", "OUT"],
        ["slice", "OUT"],
        ["train", "OUT"],
        ["export", "OUT"],
        ["groups", "--model", "resnet18"],
        ["flops", "--model", "resnet18"],
    ],
    ids=lambda words: words[0],
)
def test_without_torch_a_command_says_what_to_install(
    words: list[str], bare_site: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = run_with(bare_site, *(out if word == "OUT" else word for word in words))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"Error: {SEARCH}\n")
    assert not out.exists()


def test_without_onnx_runtime_bench_says_what_to_install(bare_site: Path, tmp_path: Path) -> None:
    done = run_with(bare_site, "bench", tmp_path / "model.onnx")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "pip install dmcp-deploy[export], or dmcp-deploy[device] where" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_an_exporter_prune_says_what_to_install_before_it_searches(
    site_without: Path, tmp_path: Path
) -> None:
    for name in ("torch", "torchvision"):
        # Only looked for, never imported: a folder of that name will do.
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise AssertionError")
    path = Path(os.pathsep.join([str(site_without), str(tmp_path)]))
    done = run_with(path, "prune", "--model", "resnet18", "--flops", "1G", "--out", tmp_path / "r")
    sentence = "onnxscript is not installed: run pip install 'dmcp-deploy[export]'."
    assert (done.returncode, done.stderr) == (1, f"Error: {sentence}\n")
    assert not (tmp_path / "r").exists()


def test_without_tensorboard_it_is_not_promised(bare_site: Path, tmp_path: Path) -> None:
    for name in ("torch", "torchvision", "safetensors", "PIL"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise AssertionError")
    path = Path(os.pathsep.join([str(bare_site), str(tmp_path)]))
    words = ["search", "--model", "resnet18", "--flops", "1G", "--out", tmp_path / "r"]
    done = run_with(path, *words, "--tensorboard")
    sentence = "tensorboard is not installed: run pip install 'dmcp-deploy[tensorboard]'."
    assert (done.returncode, done.stderr) == (1, f"Error: {sentence}\n")


@pytest.mark.xdist_group("run")
def test_bench_measures_a_run_where_there_is_no_torch(
    site_without: Path, finished_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    before = (run / "bench.json").read_bytes()
    done = run_with(site_without, "bench", run, "--seconds", 0.1)
    assert done.returncode == 0, done.stderr
    rows = [line.split()[0] for line in done.stdout.splitlines()]
    assert rows == ["network", "original", "pruned"]
    assert (run / "bench.json").read_bytes() != before
