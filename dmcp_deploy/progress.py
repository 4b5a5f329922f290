"""The one small reporter through which long work tells how far it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """One task under way."""

    def advance(self, **figures: float) -> None:
        """Reports one more unit done, and the newest figures to show beside the bar."""


class Progress(Protocol):
    """Where library code reports progress; it never prints by itself."""

    def task(
        self, title: str, total: int, done: int = 0, unit: str = "step"
    ) -> AbstractContextManager[Bar]:
        """Opens a task of `total` units of which `done` are done already."""

    def say(self, text: str) -> None:
        """Reports one line of news."""


class _NoBar:
    def advance(self, **figures: float) -> None:
        """Reports nothing."""


class NoProgress:
    """Reports nothing: the default of every library function."""

    @contextmanager
    def task(self, title: str, total: int, done: int = 0, unit: str = "step") -> Iterator[Bar]:
        """Opens a task that shows nothing."""
        yield _NoBar()

    def say(self, text: str) -> None:
        """Says nothing."""


NO_PROGRESS = NoProgress()


class TerminalProgress:
    """Bars with an ETA and lines of news on standard error."""

    @contextmanager
    def task(self, title: str, total: int, done: int = 0, unit: str = "step") -> Iterator[Bar]:
        """Opens a bar; where standard error is no terminal, a line about every ten seconds."""
        from tqdm import tqdm

        interval = 0.2 if sys.stderr.isatty() else 10.0
        with tqdm(
            total=total, initial=done, desc=title, unit=unit, mininterval=interval, file=sys.stderr
        ) as bar:
            yield _TqdmBar(bar)

    def say(self, text: str) -> None:
        """Prints the line on standard error."""
        print(text, file=sys.stderr, flush=True)


class _TqdmBar:
    def __init__(self, bar: object) -> None:
        self._bar = bar

    def advance(self, **figures: float) -> None:
        """Moves the bar on by one."""
        if figures:
            shown = {name: f"{value:.4g}" for name, value in figures.items()}
            self._bar.set_postfix(shown, refresh=False)  # type: ignore[attr-defined]
        self._bar.update()  # type: ignore[attr-defined]
