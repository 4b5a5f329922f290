"""Runs by two processes, started by torchrun or `--gpus`: refusals, and processes lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import ENVIRONMENT, asked, call, command_line, refused
from two_ranks import WORLD, on_two_ranks

import dmcp_deploy
from dmcp_deploy.cli import launch
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.training.metrics import read_metrics

VALIDATION = 24  # images in `tiny_folder`
STEPS = 24

_PATIENCE_S = 240

#: What `--gpus` does, by CPU processes.
LAUNCH = """
import json, sys
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.cli.launch import launch
try:
    sys.exit(launch(*json.loads(sys.argv[1])))
except DmcpError as err:
    sys.exit(f"Error: {err}")
"""


def test_more_gpus_than_there_are_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    sentence = refused(*asked("prune", tmp_path, tmp_path / "run", gpus=2))
    assert sentence.startswith("--gpus 2 asks for more than the 1 CUDA devices that torch finds")
    assert "torchrun --nproc-per-node 2 -m dmcp_deploy" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_device_of_ones_own_and_gpus_exclude_each_other(device: str, tmp_path: Path) -> None:
    words = asked("search", tmp_path, tmp_path / "run", gpus=1, device=device)
    assert f"leave out --device {device}" in refused(*words)


@pytest.mark.parametrize("command", ["prune", "search", "train"])
def test_the_same_words_are_run_by_every_process(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(launch, "launch", lambda *args: told.append(args) or 7)
    words = [command, str(tmp_path)] if command == "train" else asked(command, tmp_path, tmp_path)
    words += ["--gpus", "4", "--max-restarts", "1"]
    assert call(*words).exit_code == 7, "the exit code of the processes"
    assert told == [(words, 4, 1)]


def test_torchrun_and_gpus_must_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    sentence = refused(*asked("search", tmp_path, tmp_path / "run", gpus=2))
    assert sentence.startswith("torchrun has started 4 processes on this machine and --gpus asks")


def test_the_first_refusal_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not launch.refuse("nobody listens")
    path = tmp_path / "refusal.json"
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "DMCP_DEPLOY_REFUSAL": str(path)}.items():
        monkeypatch.setenv(name, value)
    launch.begin_launched()
    assert launch.refuse("The first.")
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert launch.refuse("The second.")
    assert json.loads(path.read_text()) == "The first."
    with pytest.raises(SystemExit) as found:
        launch.begin_launched()
    assert found.value.code == 0, "started again it ends at once, and is not started once more"


def test_a_refusal_reaches_the_user_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(words: object, processes: int, max_restarts: int) -> int:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert launch.refuse("There is no weights file x.")
        return 0

    monkeypatch.setattr(launch, "_run", run)
    with pytest.raises(DmcpError, match=r"^There is no weights file x\.$"):
        launch.launch([], 2, 0)
    assert "DMCP_DEPLOY_REFUSAL" not in os.environ


def test_requests_of_old_have_batch_norms_of_their_own(finished_run: Path) -> None:
    request = RunDir(finished_run).request()
    assert "sync_bn" not in request.to_json(), "the same file, and the same checkpoints, as before"
    assert not RunRequest.from_json(request.to_json()).sync_bn
    synced = replace(request, sync_bn=True)
    assert synced.token() != request.token()
    assert RunRequest.from_json(synced.to_json()) == synced
    assert request.difference(synced) == "sync_bn: False there, True asked for"


@pytest.mark.slow
def test_what_the_user_can_mend_is_said_once_and_not_tried_again(tmp_path: Path) -> None:
    words = asked("search", tmp_path / "no-such-folder", tmp_path / "run")
    with launched(words, max_restarts=3) as process:
        printed, errors = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 1
    assert printed == ""
    assert errors.count("no-such-folder") == 1, errors
    assert errors.startswith("Error: ")
    assert errors.count("\n") == 1, "no traceback"


def run_of_two(data: Path, out: Path) -> list[str]:
    """Returns the words that make the run of these tests by two processes."""
    options = {"batch_size": 4, "checkpoint_seconds": 0, "max_steps": STEPS, "seconds": 0.2}
    return [*asked("prune", data, out, **options), "--sync-bn"]


@pytest.fixture(scope="module")
def undisturbed(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by two processes as torchrun starts them; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    words = [word for word in run_of_two(tiny_folder, out) if word != "--no-rehearse"]
    first, second = on_two_ranks(command_line(*words))
    assert first.splitlines()[0].startswith(f"{out}: ")
    assert second == "", "the first alone reports"
    assert [path.name for path in out.parent.iterdir()] == [out.name], "no rehearsal is left"
    return out


@pytest.mark.slow
def test_two_processes_make_one_run(undisturbed: Path, tiny_folder: Path) -> None:
    run, plan = RunDir(undisturbed), ChannelPlan.load(undisturbed / "plan.json")
    assert set(run.stages()) == {"search", "slice", "train", "export", "bench"}
    assert run.request().sync_bn
    for stage, key in {"search": "full_accuracy", "slice": "accuracy", "train": "accuracy"}.items():
        assert run.figures(stage)[key]["images"] == VALIDATION, "each looked at once"
    assert plan.budget_macs is not None
    assert 0.98 <= plan.macs / plan.budget_macs <= 1.0
    for name in ("search", "train"):
        steps = [line["step"] for line in read_metrics(undisturbed / f"metrics/{name}.jsonl")]
        assert steps == list(range(STEPS))
    assert sum(p.numel() for p in dmcp_deploy.load(undisturbed).parameters()) == plan.params

    before = (undisturbed / "run.json").read_text()
    on_two_ranks(command_line(*run_of_two(tiny_folder, undisturbed)))
    assert (undisturbed / "run.json").read_text() == before, "nothing is done again"


@pytest.mark.slow
def test_a_lost_process_costs_the_steps_since_the_last_checkpoint_and_nothing_else(
    undisturbed: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    # Both are killed in turn, in stage 2 and while the pruned network is trained.
    with launched(run_of_two(tiny_folder, out), 2) as process:
        kill_rank(0, process, out / "metrics/search.jsonl", after=STEPS // 2 + 3)
        kill_rank(1, process, out / "metrics/train.jsonl", after=3)
        printed, errors = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, errors
    assert printed.splitlines()[0].startswith(f"{out}: "), "the first process alone reports"
    assert "search: resumed at step" in errors
    assert "train: resumed at step" in errors
    for name in ("plan.json", "supernet.safetensors", "sliced.safetensors", "dense.safetensors"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    for name in ("metrics/search.jsonl", "metrics/train.jsonl"):
        assert read_metrics(out / name) == read_metrics(undisturbed / name), name
    assert RunDir(out).figures("train") == RunDir(undisturbed).figures("train")


@pytest.mark.slow
def test_without_restarts_a_lost_process_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = asked("search", tiny_folder, out, batch_size=4, max_steps=400, checkpoint_seconds=0)
    with launched(words, 0) as process:
        kill_rank(1, process, out / "metrics/search.jsonl", after=2)
        _, errors = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 1
    assert "Error: Process 1 was ended by SIGKILL, after 0 restarts that were allowed" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_signal_stops_all_processes_at_the_same_step(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = asked("search", tiny_folder, out, batch_size=4, max_steps=400)
    with launched(words, 3) as process:
        wait_for_steps(process, out / "metrics/search.jsonl", 3)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors
    assert (out / "checkpoints/search.safetensors").exists(), "saved though none was due"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gpus_share_a_search_by_nccl(precision: str, tiny_folder: Path, tmp_path: Path) -> None:
    out, gpus = tmp_path / "run", min(WORLD, torch.cuda.device_count())
    words = asked("prune", tiny_folder, out, batch_size=4, gpus=gpus, precision=precision)
    done = subprocess.run(
        command_line(*words, "--sync-bn", "--seconds", 0.2),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert RunDir(out).figures("train")["accuracy"]["images"] == VALIDATION


@contextmanager
def launched(words: list[str], max_restarts: int) -> Iterator[subprocess.Popen[str]]:
    """Starts the command line in two processes."""
    environment = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, json.dumps([words, WORLD, max_restarts])],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate()


def kill_rank(rank: int, process: subprocess.Popen[str], metrics: Path, after: int) -> None:
    """Kills one of the launcher's processes once so many steps are on record."""
    wait_for_steps(process, metrics, after)
    os.kill(process_of(rank, process.pid), signal.SIGKILL)


def wait_for_steps(process: subprocess.Popen[str], metrics: Path, steps: int) -> None:
    give_up = time.monotonic() + _PATIENCE_S
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= steps):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.01)


def process_of(rank: int, launcher: int) -> int:
    """Returns the process that a launcher has started as this rank."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parent = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
                environment = folder.joinpath("environ").read_bytes().split(b"\0")
            except (OSError, IndexError):
                continue
            if parent == launcher and f"RANK={rank}".encode() in environment:
                return int(folder.name)
    raise AssertionError(f"{launcher} has no process of rank {rank}")
