"""A run that is killed and started again ends where an undisturbed one ends."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import ENVIRONMENT, asked, command_line, library

import dmcp_deploy
from dmcp_deploy.training.metrics import read_metrics

pytestmark = pytest.mark.slow

STEPS = 40
STAGE_2 = STEPS // 2

_PATIENCE_S = 240

UNDISTURBED = """
import dmcp_deploy
run = dmcp_deploy.search(**{options!r})
dmcp_deploy.train(run.path)
"""


@pytest.fixture(scope="module")
def undisturbed(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was searched and trained without a stop, in a process of its own."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    options = library(tiny_folder, out, max_steps=STEPS)
    script = UNDISTURBED.format(options={**options, "out": str(out)})
    subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, check=True)
    return out


@pytest.mark.xdist_group("resume")
def test_killed_in_every_loop_it_ends_with_the_same_plan_and_weights(
    undisturbed: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = asked("prune", tiny_folder, out, max_steps=STEPS, checkpoint_seconds=0, seconds=0.2)
    # A step is on record just before its checkpoint: the last one may have to be done again.
    search, train = out / "metrics/search.jsonl", out / "metrics/train.jsonl"

    errors = stop(words, signal.SIGKILL, search, after=4, before=STAGE_2)
    assert "resumed" not in errors
    assert not (out / "plan.json").exists()

    errors = stop(words, signal.SIGKILL, search, after=STAGE_2 + 4, before=STEPS)
    assert 3 <= resumed_at(errors, "search") < STAGE_2
    assert not (out / "plan.json").exists()

    errors = stop(words, signal.SIGKILL, train, after=4, before=STEPS)
    assert STAGE_2 + 3 <= resumed_at(errors, "search") < STEPS
    assert not (out / "dense.safetensors").exists()

    done = subprocess.run(
        command_line(*words), env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 3 <= resumed_at(done.stderr, "train") < STEPS
    for name in ("plan.json", "supernet.safetensors", "dense.safetensors"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    for name in ("metrics/search.jsonl", "metrics/train.jsonl"):
        assert read_metrics(out / name) == read_metrics(undisturbed / name), name
    assert (out / "bench.json").exists()


@pytest.mark.xdist_group("resume")
def test_stopped_by_the_keyboard_it_says_how_to_go_on(undisturbed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    for name in ("dense.safetensors", "checkpoints/train.safetensors", "metrics/train.jsonl"):
        (run / name).unlink()
    words = ["train", run, "--checkpoint-seconds", 0]
    errors = stop(words, signal.SIGINT, run / "metrics/train.jsonl", after=4, before=STEPS)
    assert errors.endswith("Stopped; the same command continues from the last checkpoint.\n")
    assert "Traceback" not in errors
    dmcp_deploy.train(run)
    dense = "dense.safetensors"
    assert (run / dense).read_bytes() == (undisturbed / dense).read_bytes()


def stop(
    words: list[object] | list[str], how: signal.Signals, metrics: Path, *, after: int, before: int
) -> str:
    """Runs the command line until so many steps are on record, then stops its process.

    Returns:
        What it wrote on standard error.
    """
    process = subprocess.Popen(
        command_line(*words),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell ignores SIGINT, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    give_up = time.monotonic() + _PATIENCE_S
    while count_lines(metrics) < after and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.002)
    process.send_signal(how)
    _, errors = process.communicate(timeout=_PATIENCE_S)
    expected = -how if how is signal.SIGKILL else 128 + how
    assert process.returncode == expected, errors
    assert after <= count_lines(metrics) < before, "stopped in the midst of the loop"
    return errors


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def resumed_at(errors: str, loop: str) -> int:
    """Returns the step at which a loop said that it went on."""
    found = re.search(rf"^{loop}: resumed at step (\d+) of {STEPS}$", errors, re.MULTILINE)
    assert found is not None, errors
    return int(found[1])
