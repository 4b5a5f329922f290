"""A run that is killed and started again ends where an undisturbed one ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import warm
from tiny_runs import ENVIRONMENT, asked, command_line, library
from training_tasks import Said

import dmcp_deploy
from dmcp_deploy.errors import Interrupted
from dmcp_deploy.options.run import Compute
from dmcp_deploy.progress import Bar, NoProgress
from dmcp_deploy.training.metrics import read_metrics

pytestmark = pytest.mark.slow

STEPS = 40
STAGE_2 = STEPS // 2

_PATIENCE_S = 240

UNDISTURBED = """
import dmcp_deploy
compute = dmcp_deploy.Compute(rehearse=False)
run = dmcp_deploy.run.search(**{options!r}, compute=compute)
dmcp_deploy.train(run.path)
"""


@pytest.fixture(scope="module")
def undisturbed(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was searched and trained without a stop, in a process of its own."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    options = {**library(tiny_folder, out, max_steps=STEPS), "out": str(out)}
    del options["compute"]  # it is no literal
    script = UNDISTURBED.format(options=options)
    done = warm.run([sys.executable, "-c", script], ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return out


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

    done = warm.run(command_line(*words), ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert 3 <= resumed_at(done.stderr, "train") < STEPS
    for name in ("plan.json", "supernet.safetensors", "dense.safetensors"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    for name in ("metrics/search.jsonl", "metrics/train.jsonl"):
        assert read_metrics(out / name) == read_metrics(undisturbed / name), name
    assert (out / "bench.json").exists()


def test_stopped_by_the_keyboard_it_says_how_to_go_on(undisturbed: Path, tmp_path: Path) -> None:
    run = begun_again(undisturbed, tmp_path)
    words = ["train", run, "--checkpoint-seconds", 0]
    errors = stop(words, signal.SIGINT, run / "metrics/train.jsonl", after=4, before=STEPS)
    assert errors.endswith("Stopped; the same command continues from the last checkpoint.\n")
    assert "Traceback" not in errors
    dmcp_deploy.train(run)
    dense = "dense.safetensors"
    assert (run / dense).read_bytes() == (undisturbed / dense).read_bytes()


def test_a_scheduler_that_ends_the_whole_job_loses_no_step(
    undisturbed: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    metrics = out / "metrics/search.jsonl"
    options = {"max_steps": STEPS, "checkpoint_seconds": 3600, "workers": 2}
    words = asked("search", tiny_folder, out, **options)
    errors = stop(words, signal.SIGTERM, metrics, after=4, before=STEPS, group=True)
    assert errors.endswith("Stopped by SIGTERM; the same command continues from here.\n")
    assert "Traceback" not in errors
    done = count_lines(metrics)
    said = Said()
    compute = Compute(progress=said)
    run = dmcp_deploy.run.search(**library(tiny_folder, out, max_steps=STEPS, compute=compute))
    dmcp_deploy.train(run.path, compute=compute)
    assert f"search: resumed at step {done} of {STEPS}" in said.lines
    for file in ("plan.json", "supernet.safetensors", "dense.safetensors"):
        assert (out / file).read_bytes() == (undisturbed / file).read_bytes(), file
    assert not list(out.rglob("*.previous"))


@pytest.mark.parametrize(
    ("method", "loop"), [("autoslim", "slim"), ("metapruning", "evolution"), ("amc", "episodes")]
)
def test_a_signal_ends_a_methods_own_loop_behind_what_it_is_at(
    method: str, loop: str, tiny_folder: Path, tmp_path: Path
) -> None:
    options = {"method": method, "max_steps": 4}
    whole = dmcp_deploy.run.search(**library(tiny_folder, tmp_path / "whole", **options))
    stopped = Compute(progress=Signalling(loop))
    with pytest.raises(Interrupted) as caught:
        dmcp_deploy.run.search(**library(tiny_folder, tmp_path / "run", compute=stopped, **options))
    assert caught.value.code == 143
    saved = (tmp_path / "run" / "checkpoints" / f"{loop}.safetensors").stat().st_mtime_ns
    assert not (tmp_path / "run" / "plan.json").exists()
    run = dmcp_deploy.run.search(**library(tiny_folder, tmp_path / "run", **options))
    for name in ("plan.json", "supernet.safetensors"):
        assert run.file(name).read_bytes() == whole.file(name).read_bytes(), name
    assert run.file(f"checkpoints/{loop}.safetensors").stat().st_mtime_ns > saved, "went on"


class Signalling(NoProgress):
    """Sends SIGTERM to this process when a task reports that something is done."""

    def __init__(self, title: str) -> None:
        self._title = title

    @contextmanager
    def task(self, title: str, total: int, done: int = 0, unit: str = "step") -> Iterator[Bar]:
        yield SignallingBar(title == self._title)


class SignallingBar:
    def __init__(self, armed: bool) -> None:
        self._armed = armed

    def advance(self, **figures: float) -> None:
        if self._armed:
            self._armed = False
            signal.raise_signal(signal.SIGTERM)


def begun_again(run: Path, folder: Path) -> Path:
    """Returns a copy of a run whose training has not begun."""
    copy = Path(shutil.copytree(run, folder / "run"))
    for name in ("dense.safetensors", "checkpoints/train.safetensors", "metrics/train.jsonl"):
        (copy / name).unlink()
    return copy


def stop(
    words: list[object] | list[str],
    how: signal.Signals,
    metrics: Path,
    *,
    after: int,
    before: int,
    group: bool = False,
) -> str:
    """Runs the command line until so many steps are on record, then stops its process.

    Args:
        words: Its arguments.
        how: The signal.
        metrics: The record.
        after: The steps.
        before: How many must not be on record yet.
        group: Whether the processes that it has started get the signal as well.

    Returns:
        What they wrote on standard error, the last of them until it ended.
    """
    with warm.Process(command_line(*words), ENVIRONMENT) as process:
        give_up = time.monotonic() + _PATIENCE_S
        while count_lines(metrics) < after and time.monotonic() < give_up:
            if process.poll() is not None:
                break
            time.sleep(0.002)
        if group:
            os.killpg(process.pid, how)
        else:
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
