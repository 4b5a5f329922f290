"""The signals by which schedulers end a job."""

from __future__ import annotations

import signal

#: What schedulers send some time before SIGKILL; SLURM's --signal may name SIGUSR1.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


def leave_signals_to_parent(worker: int = 0) -> None:
    """Has a process that prepares batches ignore what its parent catches.

    Schedulers send a signal to every process of a job, and the parent still needs batches to
    finish its step. It ends its workers itself; they also end when it is gone.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
