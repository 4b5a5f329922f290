"""The one exception that a user can mend."""

from __future__ import annotations


class DmcpError(Exception):
    """What was wrong, the value found, the values allowed and the next step, in one sentence.

    The command line prints the sentence and exits with code 1; anything else that is raised is
    a bug and keeps its traceback.
    """
