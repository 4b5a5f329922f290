"""The signals by which schedulers end a job."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: What schedulers send some time before SIGKILL; SLURM's --signal may name SIGUSR1.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


def leave_signals_to_parent(worker: int = 0) -> None:
    """Has a process that prepares batches ignore what its parent catches.

    Schedulers send a signal to every process of a job, and the parent still needs batches to
    finish its step. It ends its workers itself; they also end when it is gone.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


#: Tells, for each block that catches signals at the moment, which one waits for its end.
_waiting: list[Callable[[], signal.Signals | None]] = []


@contextmanager
def told_of(waiting: Callable[[], signal.Signals | None]) -> Iterator[None]:
    """Lets `waiting_signal` tell, within the block, of the signals that it catches."""
    _waiting.append(waiting)
    try:
        yield
    finally:
        _waiting.remove(waiting)


def waiting_signal() -> signal.Signals | None:
    """Returns a signal that has come and waits for the end of a step; None if there is none."""
    return next((number for tell in _waiting if (number := tell()) is not None), None)
