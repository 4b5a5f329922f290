"""Which cores are measured on, and that the process is given back the others."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny_onnx import write_tiny_net

from dmcp_deploy.machine.affinity import choose_cores, measured_cores, pinned
from dmcp_deploy.runtimes.session import open_session

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this platform pins no process"
)


def topology(root: Path, siblings: dict[int, str], max_khz: dict[int, int]) -> Path:
    for core, text in siblings.items():
        folder = root / f"cpu{core}"
        (folder / "topology").mkdir(parents=True)
        (folder / "topology/thread_siblings_list").write_text(f"{text}\n")
        if core in max_khz:
            (folder / "cpufreq").mkdir()
            (folder / "cpufreq/cpuinfo_max_freq").write_text(f"{max_khz[core]}\n")
    return root


NEIGHBOURS = {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}
HALVES = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}


@pytest.mark.parametrize(
    ("siblings", "max_khz", "allowed", "count", "cores"),
    [
        ({}, {}, {3, 1, 5}, 2, (1, 3)),
        ({}, {}, {3, 1, 5}, 9, (1, 3, 5)),
        (NEIGHBOURS, {}, {0, 1, 2, 3}, 2, (0, 2)),
        (NEIGHBOURS, {}, {0, 1, 2, 3}, 3, (0, 1, 2)),
        (NEIGHBOURS, {}, {1, 2, 3}, 2, (1, 2)),
        (HALVES, {}, {0, 1, 2, 3}, 2, (0, 1)),
        # Slow cores have the lowest numbers.
        ({0: "0", 1: "1", 2: "2"}, {0: 1800000, 1: 1800000, 2: 2200000}, {0, 1, 2}, 2, (0, 2)),
        # A fast core's second thread is worth less than a slow core.
        (NEIGHBOURS, {0: 3, 1: 3, 2: 2, 3: 2}, {0, 1, 2, 3}, 2, (0, 2)),
    ],
)
def test_physical_cores_come_first_the_fast_before_the_slow(
    tmp_path: Path,
    siblings: dict[int, str],
    max_khz: dict[int, int],
    allowed: set[int],
    count: int,
    cores: tuple[int, ...],
) -> None:
    assert choose_cores(count, allowed, topology(tmp_path, siblings, max_khz)) == cores


def test_the_process_is_pinned_to_as_many_cores_and_no_longer() -> None:
    before = os.sched_getaffinity(0)
    with pinned(1) as cores:
        assert cores == measured_cores(1)
        assert len(cores or ()) == 1
        assert os.sched_getaffinity(0) == set(cores or ())
    assert os.sched_getaffinity(0) == before


def test_the_process_is_given_back_its_cores_when_the_block_raises() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(KeyError), pinned(1):
        raise KeyError("within")
    assert os.sched_getaffinity(0) == before


class Thread:
    """A thread that lives until it is told to end."""

    def __init__(self) -> None:
        self._end, ready = threading.Event(), threading.Event()

        def wait() -> None:
            ready.set()
            self._end.wait(60)

        self._thread = threading.Thread(target=wait)
        self._thread.start()
        assert ready.wait(60)

    def cores(self) -> set[int]:
        assert self._thread.native_id is not None
        return os.sched_getaffinity(self._thread.native_id)

    def end(self) -> None:
        self._end.set()
        self._thread.join()


def test_threads_that_run_and_those_that_are_started_are_pinned_and_given_back() -> None:
    before, old = os.sched_getaffinity(0), Thread()
    with pinned(1) as cores:
        new = Thread()
        within = old.cores(), new.cores()
    after = old.cores(), new.cores()
    old.end()
    new.end()
    assert within == (set(cores or ()),) * 2
    assert after == (before,) * 2


def test_no_number_of_threads_pins_nothing() -> None:
    before = os.sched_getaffinity(0)
    with pinned(0) as cores:
        assert cores is None
        assert os.sched_getaffinity(0) == before


def test_a_platform_that_cannot_is_told_as_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    with pinned(1) as cores:
        assert cores is None


def test_a_sandbox_that_forbids_it_is_told_as_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(task: int, cores: object) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    with pinned(1) as cores:
        assert cores is None


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_threads_of_a_runtime_stay_on_the_cores(tmp_path: Path, runtime: str) -> None:
    pytest.importorskip(runtime)
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core alone: nothing to stay away from")
    path = write_tiny_net(tmp_path / "net.onnx", width=64, size=128).path
    images = np.zeros((1, 3, 128, 128), np.float32)
    with open_session(path, runtime, 2) as session:  # OpenVINO looks at the machine once
        session.run(images)
    with pinned(1) as cores, open_session(path, runtime, 1) as session:
        seen = cores_while(lambda: session.run(images))
    allowed = set(cores or ())
    # OpenVINO lets the calling thread go wherever it may between two runs.
    free = os.sched_getaffinity(0) if runtime == "openvino" else allowed
    assert all(mask <= allowed or mask == free for mask in seen), seen
    assert frozenset(allowed) in seen


def cores_while(call: object) -> set[frozenset[int]]:
    """Returns the sets of cores that this thread has while it makes a call again and again."""
    me, seen, end = threading.get_native_id(), set(), threading.Event()

    def watch() -> None:
        while not end.is_set():
            seen.add(frozenset(os.sched_getaffinity(me)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(50):
        call()  # type: ignore[operator]
    end.set()
    watcher.join()
    return seen
