"""What ends a command without being a bug."""

from __future__ import annotations

import re
import signal


class DmcpError(Exception):
    """What was wrong, the value found, the values allowed and the next step, in one sentence.

    The command line prints the sentence and exits with code 1; anything else that is raised is
    a bug and keeps its traceback.
    """


def reason_of(err: BaseException, noise: re.Pattern[str] | None = None) -> str:
    """Returns what an error of a library or of the system says, as a part of a sentence.

    It is the first line that tells something, of 200 characters at most, without a full stop; the
    name of the error's type where none does. What cannot be shown is shown as "?".

    C++ libraries put bytes of a damaged file into their texts, which then are no UTF-8: Python
    raises a UnicodeDecodeError in the place of the library's own error, and the text is in it.

    Args:
        err: The error.
        noise: What lines look like from their beginning that tell nothing.
    """
    lines = [" ".join(line.split()) for line in _COLOURS.sub("", _text(err)).splitlines()]
    lines = [line.removeprefix("-- ") for line in lines if line]
    telling = [line for line in lines if noise is None or not noise.match(line)]
    line = next(iter(telling or lines), "")
    shown = "".join(char if char.isprintable() else "?" for char in line)
    return shown[:_LONGEST].rstrip(" .:,;") or type(err).__name__


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


def _text(err: BaseException) -> str:
    if isinstance(err, UnicodeDecodeError):
        return err.object.decode(err.encoding, "replace").replace("\ufffd", "?")
    if isinstance(err, OSError) and err.strerror:
        return err.strerror
    return str(err)


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 200
