"""How much is done before the best plan so far is taken: counted, not timed."""

from __future__ import annotations

#: As many entries take as long as the calls that work on one array, however small it is.
_PER_ARRAY = 3_000


class Effort:
    """What is left to be done, in entries of arrays: the same on any machine, however busy."""

    def __init__(self, entries: float) -> None:
        """Allows for so many entries, 200 million of which take about a second."""
        self._left = entries

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left."""
        return self._left <= 0

    def spend(self, entries: int, arrays: int) -> None:
        """Takes off what was computed."""
        self._left -= entries + _PER_ARRAY * arrays
