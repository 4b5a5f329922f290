"""Pins this process to a few cores for as long as something is measured."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from dmcp_deploy.machine.state import allowed_cores
from dmcp_deploy.machine.sysfs import read_number, read_text

_CPUS = Path("/sys/devices/system/cpu")
_TASKS = Path("/proc/self/task")


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...] | None]:
    """Keeps all threads of this process on as many cores as it measures with threads.

    Threads that are started meanwhile inherit it; afterwards all have the cores they had before.
    OpenVINO pins its own threads to the first physical cores that it found at its first network,
    which are the same ones.

    Args:
        threads: Threads that the measured work has; 0 pins nothing.

    Yields:
        The cores; None where nothing is pinned, or the platform cannot.
    """
    if threads < 1 or not hasattr(os, "sched_setaffinity"):
        yield None
        return
    cores = measured_cores(threads)
    before, own = {task: _affinity(task) for task in _tasks()}, os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores)
    except OSError:  # a sandbox may forbid it
        yield None
        return
    try:
        for task in before:
            _set_affinity(task, cores)
        yield cores
    finally:
        for task in _tasks():
            _set_affinity(task, before.get(task) or own)


def measured_cores(threads: int) -> tuple[int, ...]:
    """Returns the cores that so many threads are measured on; all that are allowed for 0."""
    allowed = allowed_cores()
    return choose_cores(threads, allowed) if threads else allowed


def choose_cores(count: int, allowed: Iterable[int], root: Path = _CPUS) -> tuple[int, ...]:
    """Returns so many of the allowed cores, or all if they are fewer.

    One of every physical core's threads comes first, the faster before the slower, as far as
    Linux tells; else the lowest numbers.

    Args:
        count: How many, from 1 on.
        allowed: Their numbers.
        root: The folder of cpu0, cpu1 and so on.
    """
    cores = sorted(allowed)
    seen: set[str] = set()
    order = []
    for core in cores:
        siblings = read_text(root / f"cpu{core}/topology/thread_siblings_list")
        order.append((bool(siblings) and siblings in seen, -_most_khz(root, core), core))
        seen.add(siblings)
    return tuple(sorted(core for *_, core in sorted(order)[:count]))


def _most_khz(root: Path, core: int) -> int:
    return read_number(root / f"cpu{core}/cpufreq/cpuinfo_max_freq") or 0


def _tasks() -> list[int]:
    """Returns the threads of this process; the calling one, as 0, where they are not told."""
    try:
        return [int(path.name) for path in _TASKS.iterdir()]
    except OSError:
        return [0]


def _affinity(task: int) -> set[int] | None:
    try:
        return os.sched_getaffinity(task)
    except OSError:  # it has ended
        return None


def _set_affinity(task: int, cores: Iterable[int]) -> None:
    with contextlib.suppress(OSError):  # it has ended
        os.sched_setaffinity(task, cores)
