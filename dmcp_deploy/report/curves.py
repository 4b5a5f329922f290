"""Figures of steps -> lines that can be drawn and read."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dmcp_deploy.report.charts import Series, finite

#: More points than this cannot be told apart on a screen.
_MOST_POINTS = 500
_SMOOTHED_SHARE = 0.06


def curve(steps: Sequence[Mapping[str, Any]], figure: str) -> tuple[tuple[float, float], ...]:
    """Returns (step, figure) for the steps that report a figure, in order (see `thinned`)."""
    return thinned(finite([(step["step"], step[figure]) for step in steps if figure in step]))


def thinned(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """Returns points, or of very many the means of blocks of neighbours."""
    block = -(-len(points) // _MOST_POINTS)
    if block <= 1:
        return points
    blocks = (points[start : start + block] for start in range(0, len(points), block))
    return tuple((part[0][0], statistics.fmean(y for _, y in part)) for part in blocks)


def means_note(count: int) -> str:
    """Returns a sentence on what a point stands for, where it is not one of `count` values."""
    block = -(-count // _MOST_POINTS)
    return f" Each point is the mean of {block} neighbours." if block > 1 else ""


def with_trend(
    name: str, points: tuple[tuple[float, float], ...], colour: int = 0
) -> tuple[Series, ...]:
    """Returns a noisy line, faint, and its moving mean; the line alone where it is short."""
    reach = round(len(points) * _SMOOTHED_SHARE / 2)
    if reach < 1:
        return (Series(name, points, colour),)
    smooth = tuple((x, _mean_around(points, i, reach)) for i, (x, _) in enumerate(points))
    return (
        Series(name, points, colour, "faint"),
        Series(f"{name}, moving mean", smooth, colour),
    )


def level(name: str, value: float, points: Sequence[tuple[float, float]], colour: int) -> Series:
    """Returns a level line along the whole of a curve."""
    first, last = points[0][0], points[-1][0]
    return Series(name, ((first, value), (last, value)), colour, "dash")


def _mean_around(points: Sequence[tuple[float, float]], place: int, reach: int) -> float:
    return statistics.fmean(y for _, y in points[max(0, place - reach) : place + reach + 1])
