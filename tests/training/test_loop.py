"""The loop: a run in parts is the undisturbed run, bit for bit, however it was cut."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import training_tasks
import warm
from torch import Tensor
from training_tasks import STEPS, Said, SlowTask, batches_from, settings

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.types import Batch
from dmcp_deploy.errors import DmcpError, Interrupted
from dmcp_deploy.training.checkpoint import Checkpoint
from dmcp_deploy.training.loop import run_loop
from dmcp_deploy.training.metrics import read_metrics


class StopTraining(Exception):  # noqa: N818
    pass


class StoppingTask(SlowTask):
    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def step(self, step: int, batch: Batch) -> Mapping[str, float]:
        if step == self._at:
            raise StopTraining
        return super().step(step, batch)


class SignalledTask(SlowTask):
    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def step(self, step: int, batch: Batch) -> Mapping[str, float]:
        if step == self._at:
            signal.raise_signal(signal.SIGTERM)
        return super().step(step, batch)


@pytest.fixture
def undisturbed(tmp_path) -> dict[str, Tensor]:
    task = SlowTask()
    assert run_loop(task, batches_from, settings(tmp_path / "whole")) == 0
    return task.state()


def assert_equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def steps_reported(folder: Path) -> list[int]:
    return [int(report["step"]) for report in read_metrics(folder / "train.jsonl")]


def test_a_loop_that_is_done_is_read_and_not_done_again(undisturbed, tmp_path):
    done = settings(tmp_path / "whole", is_done=True)
    task = SlowTask(seed=9)
    assert run_loop(task, batches_from, done) == STEPS
    assert_equal(task.state(), undisturbed)
    done.checkpoint.unlink()
    with pytest.raises(DmcpError, match="does not hold the last step of what is done: put it"):
        run_loop(task, batches_from, replace(done, checkpoint=tmp_path / "absent.safetensors"))


@pytest.mark.parametrize("at", [1, 5, STEPS - 1])
def test_a_run_in_two_parts_is_the_undisturbed_run(at, undisturbed, tmp_path):
    with pytest.raises(StopTraining):
        run_loop(StoppingTask(at), batches_from, settings(tmp_path))
    # Another seed: all that counts must come from the checkpoint.
    task, said = SlowTask(seed=9), Said()
    assert run_loop(task, batches_from, settings(tmp_path), said) == at
    assert_equal(task.state(), undisturbed)
    assert steps_reported(tmp_path) == list(range(STEPS))
    assert said.lines == [f"train: resumed at step {at} of {STEPS}"]


def test_a_run_in_many_parts_is_the_undisturbed_run(undisturbed, tmp_path):
    for at in range(1, STEPS):
        with pytest.raises(StopTraining):
            run_loop(StoppingTask(at), batches_from, settings(tmp_path))
    task = SlowTask()
    run_loop(task, batches_from, settings(tmp_path))
    assert_equal(task.state(), undisturbed)
    assert (tmp_path / "train.jsonl").read_text() == (tmp_path / "whole/train.jsonl").read_text()


def test_steps_after_the_last_checkpoint_are_done_again(undisturbed, tmp_path):
    rare = settings(tmp_path, checkpoint_s=3600.0)
    with pytest.raises(StopTraining):
        run_loop(StoppingTask(3), batches_from, settings(tmp_path))
    with pytest.raises(StopTraining):
        run_loop(StoppingTask(7), batches_from, rare)
    assert steps_reported(tmp_path) == list(range(7))
    task = SlowTask()
    assert run_loop(task, batches_from, rare) == 3
    assert_equal(task.state(), undisturbed)
    assert steps_reported(tmp_path) == list(range(STEPS))


def test_what_is_random_in_a_step_does_not_depend_on_what_was_drawn_before(undisturbed, tmp_path):
    torch.manual_seed(12345)
    task = SlowTask()
    torch.rand(7)
    run_loop(task, batches_from, settings(tmp_path))
    assert_equal(task.state(), undisturbed)
    other = SlowTask()
    run_loop(other, batches_from, settings(tmp_path / "other", seed=6))
    assert not torch.equal(other.state()["model.6.weight"], undisturbed["model.6.weight"])


def test_a_finished_run_is_not_repeated(undisturbed, tmp_path):
    folder = tmp_path / "whole"
    before = (folder / "train.jsonl").read_bytes()
    task = SlowTask(seed=9)
    assert run_loop(task, batches_from, settings(folder)) == STEPS
    assert_equal(task.state(), undisturbed)
    assert (folder / "train.jsonl").read_bytes() == before


def test_the_last_step_is_always_checkpointed(tmp_path):
    run_loop(SlowTask(), batches_from, settings(tmp_path, checkpoint_s=3600.0))
    saved = Checkpoint.load(tmp_path / "train.safetensors", "test")
    assert saved is not None
    assert saved.step == STEPS


@pytest.mark.parametrize("at", [0, 5, STEPS - 1])
def test_a_signal_ends_it_behind_the_step_that_it_came_in(at, undisturbed, tmp_path):
    rare = settings(tmp_path, checkpoint_s=3600.0)
    with pytest.raises(Interrupted) as caught:
        run_loop(SignalledTask(at), batches_from, rare)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    task = SlowTask(seed=9)
    assert run_loop(task, batches_from, rare) == at + 1
    assert_equal(task.state(), undisturbed)
    assert steps_reported(tmp_path) == list(range(STEPS))


def test_where_someone_else_handles_the_signal_it_saves_and_goes_on(undisturbed, tmp_path):
    path, steps_saved = tmp_path / "train.safetensors", []

    def handler(number: int, frame: object) -> None:
        saved = Checkpoint.load(path, "test")
        assert saved is not None
        steps_saved.append(saved.step)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        task = SignalledTask(5)
        run_loop(task, batches_from, settings(tmp_path, checkpoint_s=3600.0))
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert steps_saved == [6]
    assert_equal(task.state(), undisturbed)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(undisturbed, tmp_path):
    with pytest.raises(StopTraining):
        run_loop(StoppingTask(7), batches_from, settings(tmp_path))
    damage(tmp_path / "train.safetensors")
    task, said = SlowTask(seed=9), Said()
    assert run_loop(task, batches_from, settings(tmp_path), said) == 6
    assert_equal(task.state(), undisturbed)
    assert steps_reported(tmp_path) == list(range(STEPS))
    told, resumed = said.lines
    assert "train.safetensors is damaged" in told
    assert told.endswith("the one before it is taken, of step 6.")
    assert resumed == f"train: resumed at step 6 of {STEPS}"


def test_damaged_checkpoints_stop_the_run_before_its_metrics_are_touched(tmp_path):
    folder = tmp_path
    run_loop(SlowTask(), batches_from, settings(folder))
    damage(folder / "train.safetensors")
    damage(folder / "train.safetensors.previous")
    before = (folder / "train.jsonl").read_bytes()
    for token in ("test", "other"):
        with pytest.raises(DmcpError, match="delete both to start this stage again"):
            run_loop(SlowTask(), batches_from, settings(folder, token=token))
    assert (folder / "train.jsonl").read_bytes() == before


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_another_runs_checkpoint_stops_the_run(tmp_path):
    run_loop(SlowTask(), batches_from, settings(tmp_path))
    with pytest.raises(DmcpError, match="other settings"):
        run_loop(SlowTask(), batches_from, settings(tmp_path, token="other"))


def test_a_training_that_diverges_is_told_and_stopped(tmp_path):
    class Diverging(SlowTask):
        def step(self, step: int, batch: Batch) -> Mapping[str, float]:
            wild = Batch(batch.images * float("inf") if step == 4 else batch.images, batch.labels)
            return super().step(step, wild)

    with pytest.raises(DmcpError, match=r"loss is nan at step 4.*lower learning rates"):
        run_loop(Diverging(), batches_from, settings(tmp_path))
    saved = Checkpoint.load(tmp_path / "train.safetensors", "test")
    assert saved is not None
    assert saved.step == 4


def test_seeds_of_steps_are_fixed_and_differ():
    # These numbers decide what a resumed run draws: a release that changes them breaks runs.
    assert step_seed(0, 0) == 22647536630920472
    assert step_seed(0, 0, "widths") != step_seed(0, 0, "draws")
    seeds = {step_seed(seed, step) for seed in range(10) for step in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.slow
@pytest.mark.parametrize("after", [2, 7])
def test_a_killed_process_is_resumed_to_the_same_end(after, undisturbed, tmp_path):
    folder = tmp_path / "killed"
    command = [sys.executable, training_tasks.__file__, folder, "0.2"]
    with warm.Process(command, {**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 120
        while len(read_metrics(folder / "train.jsonl")) < after:
            assert process.poll() is None, process.communicate(1)
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.communicate(60)
    assert process.returncode == -signal.SIGKILL
    reported = len(read_metrics(folder / "train.jsonl"))
    assert after <= reported < STEPS
    task = SlowTask()
    start = run_loop(task, batches_from, settings(folder))
    assert reported - 1 <= start <= reported
    assert_equal(task.state(), undisturbed)
    assert steps_reported(folder) == list(range(STEPS))
