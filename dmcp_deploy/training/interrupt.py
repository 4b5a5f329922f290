"""SIGTERM ends long work between two of its steps, when all is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from dmcp_deploy.errors import Interrupted
from dmcp_deploy.machine.signals import SIGNALS, told_of
from dmcp_deploy.training.distributed import any_says, world_size


class Signals:
    """The signals that have come since they were caught."""

    def __init__(self) -> None:
        """Begins with none."""
        self._handlers: dict[signal.Signals, Callable[..., Any] | int | None] = {}
        self._waiting: signal.Signals | None = None

    @property
    def number(self) -> signal.Signals | None:
        """The signal that has come and nothing was done about yet; None if there is none."""
        return self._waiting

    @property
    def waiting(self) -> bool:
        """Whether a signal has come and nothing was done about it yet."""
        return self._waiting is not None

    def heed(self) -> None:
        """Does what the signal that waits is for, if one does; to be called once all is saved.

        A handler that was installed before is called, and what it returns from goes on.

        Raises:
            Interrupted: There was no handler.
        """
        number, self._waiting = self._waiting, None
        if number is None:
            return
        handler = self._handlers[number]
        if not callable(handler):
            raise Interrupted(number)
        handler(number, None)

    def heed_together(self) -> None:
        """Does the same where the signal may have come to another process; all call it.

        One of several processes goes on in no case: the others would wait for it.

        Raises:
            Interrupted: A signal has come.
        """
        (stop,) = any_says(self.waiting)
        if stop:
            self.heed()
        if stop and world_size() > 1:
            raise Interrupted(signal.SIGTERM)

    def catch(self) -> None:
        """Begins to catch signals, but for those that are ignored."""
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler) or handler is signal.SIG_DFL:
                self._handlers[number] = signal.signal(number, self._note)

    def release(self) -> None:
        """Installs the handlers that were there before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._waiting = signal.Signals(number)


@contextmanager
def caught_signals() -> Iterator[Signals]:
    """Yields what notes SIGTERM and SIGUSR1 during the block, instead of ending the process.

    Python has signals handled in the main thread alone: in another one none is caught. One of
    several processes must agree with the others on what to do, as they wait for its share of the
    next step.

    Raises:
        Interrupted: A signal came in the block, and nothing was done about it there.
    """
    signals = Signals()
    if threading.current_thread() is threading.main_thread():
        signals.catch()
    try:
        with told_of(lambda: signals.number):
            yield signals
    finally:
        signals.release()
        signals.heed()
