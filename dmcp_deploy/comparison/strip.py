"""A strip for every method: a dot for each seed, a bar at their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmcp_deploy.report.markup import esc
from dmcp_deploy.report.scale import Axis, axis, percent


@dataclass(frozen=True)
class Strip:
    """A row of the chart.

    Attributes:
        name: What the values are of.
        values: One for each seed.
        mean: Their mean.
        strong: Whether it stands out: what the others are compared with.
    """

    name: str
    values: tuple[float, ...]
    mean: float
    strong: bool = False


def strip_chart(title: str, text: str, strips: Sequence[Strip]) -> str:
    """Returns the strips over one axis, with a line through the mean of those that stand out."""
    scale = axis([value for item in strips for value in item.values], percent)
    lines = [scale.place(item.mean) for item in strips if item.strong]
    body = "".join(_strip(item, scale, lines) for item in strips)
    ticks = "".join(
        f'<text x="{scale.place(tick):.3f}%" y="12" text-anchor="middle">'
        f"{esc(percent(tick))}</text>"
        for tick in scale.ticks
    )
    return (
        f'<figure class="strips"><figcaption><h4>{esc(title)}</h4><p>{esc(text)}</p>'
        f'</figcaption><div class="strip-rows">{body}<span></span>'
        f'<svg class="strip">{ticks}</svg></div></figure>'
    )


def _strip(item: Strip, scale: Axis, lines: Sequence[float]) -> str:
    grid = "".join(
        f'<line class="grid" x1="{x:.3f}%" x2="{x:.3f}%" y2="100%"/>'
        for x in map(scale.place, scale.ticks)
    )
    marks = "".join(
        f'<line class="line faint c1" x1="{x:.3f}%" x2="{x:.3f}%" y2="100%"/>' for x in lines
    )
    dots = "".join(f'<circle cx="{scale.place(v):.3f}%" cy="50%" r="4"/>' for v in item.values)
    mean = f"{scale.place(item.mean):.3f}%"
    bar = f'<line class="mean" x1="{mean}" x2="{mean}" y1="15%" y2="85%"/>'
    told = f"{item.name}: mean {item.mean:.2%} of {', '.join(f'{v:.2%}' for v in item.values)}"
    colour = "c1" if item.strong else "c0"
    return (
        f'<span class="strip-name">{esc(item.name)}</span>'
        f'<svg class="strip {colour}" role="img" aria-label="{esc(told)}">'
        f"<title>{esc(told)}</title>{grid}{marks}{dots}{bar}</svg>"
    )
