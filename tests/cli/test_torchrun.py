"""A whole run by two processes, as torchrun starts them."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest
from tiny_runs import ENVIRONMENT, asked, command_line

import dmcp_deploy
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.training.metrics import read_metrics

WORLD = 2
VALIDATION = 24  # images in `tiny_folder`

pytestmark = pytest.mark.slow


def test_two_processes_make_one_run(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = asked("prune", tiny_folder, out, seconds=0.2, batch_size=4, checkpoint_seconds=0)
    words += ["--sync-bn"]
    first, second = on_two_ranks(words)
    assert first.splitlines()[0].startswith(f"{out}: ")
    assert second == "", "the first alone reports"

    assert set(RunDir(out).stages()) == {"search", "slice", "train", "export", "bench"}
    assert RunDir(out).request().sync_bn
    for stage, key in {"search": "full_accuracy", "slice": "accuracy", "train": "accuracy"}.items():
        assert RunDir(out).figures(stage)[key]["images"] == VALIDATION, "each looked at once"
    plan = ChannelPlan.load(out / "plan.json")
    assert plan.budget_macs is not None
    assert 0.98 <= plan.macs / plan.budget_macs <= 1.0
    for name in ("search", "train"):
        steps = [line["step"] for line in read_metrics(out / f"metrics/{name}.jsonl")]
        assert steps == [0, 1, 2, 3]
    assert sum(p.numel() for p in dmcp_deploy.load(out).parameters()) == plan.params

    before = json.loads((out / "run.json").read_text())
    on_two_ranks(words)
    assert json.loads((out / "run.json").read_text()) == before, "nothing is done again"


def on_two_ranks(words: list[str]) -> list[str]:
    """Runs the command line in two processes that know of one another; returns what they print."""
    shared = {
        **ENVIRONMENT,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(WORLD),
        "GLOO_SOCKET_IFNAME": "lo",
        "CUDA_VISIBLE_DEVICES": "",
    }
    processes = [
        subprocess.Popen(
            command_line(*words),
            env={**shared, "RANK": str(number), "LOCAL_RANK": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(WORLD)
    ]
    try:
        results = [process.communicate(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, results, strict=True):
        assert process.returncode == 0, errors
    return [printed for printed, _ in results]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
