"""The calling thread's cores, given back once nothing is loaded that takes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress


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
            self._before = _cores()
        self._loaded += 1
        waiting = [self]

        def give_back() -> None:
            if waiting:
                waiting.pop()._drop()

        return give_back

    def _drop(self) -> None:
        self._loaded -= 1
        if not self._loaded and self._before is not None:
            with suppress(OSError):  # cores may have been taken from the process meanwhile
                os.sched_setaffinity(0, self._before)


def _cores() -> set[int] | None:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
