"""What ends a command without being a bug."""

from __future__ import annotations

import signal


class DmcpError(Exception):
    """What was wrong, the value found, the values allowed and the next step, in one sentence.

    The command line prints the sentence and exits with code 1; anything else that is raised is
    a bug and keeps its traceback.
    """


class LostPeerError(DmcpError):
    """Another process of a run is gone: all may start again, from the last checkpoint."""


class Interrupted(SystemExit):
    """A signal asked to end, and a loop has saved where it stands; the same call continues.

    Where nobody catches it, the process ends without a traceback, as `SystemExit` does.

    Attributes:
        code: The exit code that a shell gives a process that the signal has ended: 143 for
            SIGTERM, 138 for SIGUSR1.
        name: The signal's name.
    """

    def __init__(self, number: int) -> None:
        """Takes the signal's number."""
        super().__init__(128 + number)
        self.name = signal.Signals(number).name
