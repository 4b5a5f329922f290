"""The cores that threads may run on: pinned while something is measured, and given back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from dmcp_deploy.errors import DmcpError
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
    before = {task: _affinity(task) for task in _tasks()}
    of_caller = os.sched_getaffinity(0)
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
            _set_affinity(task, before.get(task) or of_caller)


def check_threads(threads: int) -> None:
    """Checks that there is a core for each thread: more take turns, for hours if they are many.

    Raises:
        DmcpError: There are fewer cores.
    """
    cores = len(allowed_cores())
    if threads > cores:
        raise DmcpError(
            f"--threads {threads} is more than the {cores} cores that this process may use: give"
            f" {cores} at most, or 0 for the runtime's choice."
        )


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
        most_khz = read_number(root / f"cpu{core}/cpufreq/cpuinfo_max_freq") or 0
        order.append((bool(siblings) and siblings in seen, -most_khz, core))
        seen.add(siblings)
    return tuple(sorted(core for *_, core in sorted(order)[:count]))


class CallerCores:
    """Keeps the cores that the calling thread has before the first of several sessions.

    OpenVINO runs with the calling thread and sometimes leaves it on the cores of its last
    inference; whatever the process did next would be confined to them.
    """

    def __init__(self) -> None:
        """Nothing is loaded yet."""
        self._loaded = 0
        self._before: set[int] | None = None

    def take(self) -> Callable[[], None]:
        """Returns what is to be called, once or more often, when a session has ended."""
        if not self._loaded:
            has_affinity = hasattr(os, "sched_getaffinity")
            self._before = os.sched_getaffinity(0) if has_affinity else None
        self._loaded += 1
        waiting = [self]

        def give_back() -> None:
            if waiting:
                waiting.pop()._drop()

        return give_back

    def _drop(self) -> None:
        self._loaded -= 1
        if not self._loaded and self._before is not None:
            # Cores may have been taken from the process meanwhile.
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self._before)


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
