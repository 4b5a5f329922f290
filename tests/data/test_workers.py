"""Worker processes where shared memory is small, where one is killed, and where nothing comes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from picture_folders import make_folder
from tiny_runs import ENVIRONMENT, asked, command_line

from dmcp_deploy.data import workers
from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.loader import eval_batches, train_batches
from dmcp_deploy.data.workers import batches_of_workers, fits_shared_memory
from dmcp_deploy.errors import DmcpError, Interrupted
from dmcp_deploy.training.interrupt import caught_signals


def pair(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((3, 4), number), torch.tensor([number])


def killed(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    os.kill(os.getpid(), signal.SIGKILL)
    return pair(number)


def stuck(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    if number:
        time.sleep(600)
    return pair(number)


def batches(make, count: int = 3, batch_bytes: int = 100):
    return batches_of_workers(make, range(count), 1, batch_bytes, pinned=False)


@pytest.mark.parametrize("free", [None, 1 << 40, 0])
def test_batches_are_the_same_however_much_shared_memory_there_is(tmp_path, monkeypatch, free):
    data = open_data(str(make_folder(tmp_path)))
    options = {"image_size": 32, "batch_size": 4, "seed": 0, "start_step": 0, "steps": 3}
    alone = list(train_batches(data, **options))
    monkeypatch.setattr(workers, "free_shared_bytes", lambda: free)
    found = list(train_batches(data, **options, workers=2))
    for one, other in zip(alone, found, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    judged = eval_batches(data.val, image_size=32, batch_size=4, workers=1)
    assert [len(batch.labels) for batch in judged] == [4, 2]


def test_room_is_needed_for_all_that_is_made_ahead(monkeypatch):
    monkeypatch.setattr(workers, "free_shared_bytes", lambda: 60)
    assert fits_shared_memory(10, workers=2)
    assert not fits_shared_memory(11, workers=2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert not fits_shared_memory(10, workers=2)


def test_a_worker_that_is_killed_is_one_sentence():
    with pytest.raises(DmcpError, match=r"was killed .*: take --workers 0, or give") as caught:
        list(batches(killed))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_batch_that_never_comes_is_one_sentence_with_the_room_that_is_left(monkeypatch):
    monkeypatch.setattr(workers, "_LOOK_S", 0.1)
    monkeypatch.setattr(workers, "_FULL_S", 0.3)
    monkeypatch.setattr(workers, "free_shared_bytes", lambda: 1000)
    came = batches(stuck, batch_bytes=100)
    assert torch.equal(next(came)[0], pair(0)[0])
    monkeypatch.setattr(workers, "free_shared_bytes", lambda: 50)
    with pytest.raises(DmcpError, match=r"No batch of 100 B .* with 50 B of shared memory") as told:
        next(came)
    assert "--shm-size" in str(told.value)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_signal_ends_a_process_that_waits_for_a_batch(monkeypatch):
    monkeypatch.setattr(workers, "_LOOK_S", 0.1)
    came = batches(stuck)

    def wait() -> None:
        with caught_signals():
            next(came)
            os.kill(os.getpid(), signal.SIGTERM)
            next(came)

    with pytest.raises(Interrupted) as caught:
        wait()
    assert caught.value.name == "SIGTERM"
    assert not multiprocessing.active_children()


def _can_mount() -> bool:
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/bin/unshare").exists() or not _can_mount(), reason="no mounting")
def test_a_search_with_workers_ends_where_shared_memory_has_a_megabyte(tmp_path):
    data = make_folder(tmp_path / "data", train=16, val=3)
    words = asked("search", data, tmp_path / "run", workers=2, batch_size=32, input_size=96)
    command = " ".join(command_line(*words))
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    found = subprocess.run(
        ["unshare", "-m", "bash", "-c", f"{mount} && exec {command}"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "through pipes" in found.stderr
