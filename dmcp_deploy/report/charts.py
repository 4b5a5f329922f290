"""Line, bar and scatter charts as inline SVG that stretches with the page.

Places are in percent, so that a chart fits any width while its text keeps its size. Lines lie in
a nested SVG of 1000 by 1000 units that is stretched without regard to its proportions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dmcp_deploy.report.markup import Table, esc, fold, script_json, table_html
from dmcp_deploy.report.scale import Axis, axis, number, spread, tight_axis

_TABLE_ROWS = 24
#: The names of more points than this would lie over one another; pointing at one still shows it.
_MOST_NAMES = 12
#: About the size of a small chart, and of a letter in it, in pixels.
_PLOT, _LETTER, _LINE = (320, 230), 7, 12
_SHIFTS = (0, -13, 13, -26, 26)
#: A point's outline by the number of its colour: nothing is told by colour alone.
_SHAPES = (
    "M-5,0A5,5 0 1 0 5,0A5,5 0 1 0 -5,0Z",
    "M-5,-5H5V5H-5Z",
    "M0,-6.5L6.5,0L0,6.5L-6.5,0Z",
    "M0,-6L6,5H-6Z",
)
COLOURS = len(_SHAPES)


@dataclass(frozen=True)
class Labels:
    """A chart's words.

    Attributes:
        key: An id, of its own on the page.
        title: What is shown.
        text: What is to be seen, for all readers.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
    """

    key: str
    title: str
    text: str
    x: str
    y: str


@dataclass(frozen=True)
class Series:
    """A line: points in the order of x.

    Attributes:
        name: What it shows.
        points: (x, y), all finite.
        colour: Number of its colour.
        style: "", "faint", or "dash".
    """

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int = 0
    style: str = ""


@dataclass(frozen=True)
class Point:
    """A point of a scatter chart.

    Attributes:
        name: Its label.
        x: Where it lies.
        y: Where it lies.
        tip: Lines that are shown when it is pointed at.
        colour: Number of its colour and shape.
        low: Lower end of the interval of y; None for no interval.
        high: Its upper end.
        named: Whether its name is drawn; None draws it where the points are few.
    """

    name: str
    x: float
    y: float
    tip: tuple[str, ...]
    colour: int = 0
    low: float | None = None
    high: float | None = None
    named: bool | None = None


@dataclass(frozen=True)
class Mark:
    """What can be pointed at: places in percent, and what is then shown."""

    x: float
    y: tuple[float, ...]
    tip: str


def line_chart(
    labels: Labels,
    series: Sequence[Series],
    limits: Sequence[Series] = (),
    show: Callable[[float], str] = number,
) -> str:
    """Returns lines over a common x; `limits` are level lines to compare with."""
    ys = [y for item in (*series, *limits) for _, y in item.points]
    x_axis = tight_axis([x for item in series for x, _ in item.points])
    y_axis = axis(ys, show)
    lines = [*(item for item in series if item.style == "faint"), *limits]
    lines += [item for item in series if item.style != "faint"]
    by_x = _by_x(series)
    marks = [
        Mark(x_axis.place(x), tuple(y_axis.place(y) for _, y in ys), _tip(labels.x, x, ys))
        for x, ys in by_x.items()
    ]
    body = "".join(_path(item, x_axis, y_axis) for item in lines)
    head = (labels.x, *(item.name for item in series))
    rows = tuple(_table_row(x, by_x[x], head[1:]) for x in spread(list(by_x), _TABLE_ROWS))
    legend = "".join(_key(item) for item in (*series, *limits))
    table = Table(labels.title, head, rows)
    return _figure(labels, x_axis, y_axis, _stretched(body), marks, legend, table)


def bar_chart(
    labels: Labels,
    names: Sequence[str],
    series: Sequence[tuple[str, Sequence[float]]],
    show: Callable[[float], str] = number,
) -> str:
    """Returns a bar for every name; each further series is drawn over those before it."""
    x_axis = tight_axis([0.5, len(names) + 0.5])
    y_axis = axis([v for _, values in series for v in values], show, zero=True)
    slot = 100 / max(1, len(names))
    bars, marks = [], []
    for place, name in enumerate(names):
        shown = [(what, values[place]) for what, values in series]
        for order, (_, value) in enumerate(shown):
            top = y_axis.place(value)
            bars.append(
                f'<rect class="bar b{order}" x="{(place + 0.14) * slot:.3f}%" y="{100 - top:.3f}%"'
                f' width="{0.72 * slot:.3f}%" height="{top:.3f}%"/>'
            )
        lines = [f"{what} {show(value)}" for what, value in shown]
        tops = tuple(y_axis.place(value) for _, value in shown[-1:])
        marks.append(Mark(round((place + 0.5) * slot, 3), tops, "\n".join([name, *lines])))
    legend = "".join(
        f'<li><i class="swatch b{order}"></i>{esc(what)}</li>'
        for order, (what, _) in enumerate(series)
    )
    rows = tuple((name, *(show(values[i]) for _, values in series)) for i, name in enumerate(names))
    table = Table(labels.title, (labels.x, *(what for what, _ in series)), rows)
    return _figure(labels, x_axis, y_axis, "".join(bars), marks, legend, table)


def scatter_chart(
    labels: Labels,
    points: Sequence[Point],
    lines: Sequence[Series] = (),
    groups: Sequence[str] = (),
    shows: tuple[Callable[[float], str], Callable[[float], str]] = (number, number),
    zero: tuple[bool, bool] = (False, False),
) -> str:
    """Returns labelled points, with intervals where they have one, and lines to compare with.

    Args:
        labels: The chart's words.
        points: What is drawn.
        lines: Drawn beneath them.
        groups: The meaning of the points' colours, by number.
        shows: How values of x and y are written.
        zero: Whether the axes begin at 0.
    """
    on_lines = [place for item in lines for place in item.points]
    ends = [end for p in points for end in (p.low, p.high) if end is not None]
    x_axis = axis([*(p.x for p in points), *(x for x, _ in on_lines)], shows[0], zero=zero[0])
    ys = [*(p.y for p in points), *ends, *(y for _, y in on_lines)]
    y_axis = axis(ys, shows[1], zero=zero[1])
    body = _stretched("".join(_path(item, x_axis, y_axis) for item in lines))
    # At another batch size a network lies close to itself: its name once is enough.
    few = len(points) <= _MOST_NAMES
    firsts = {p.name: p for p in reversed(points) if (few if p.named is None else p.named)}
    shifts = _shifts([p for p in points if firsts.get(p.name) is p], x_axis, y_axis)
    body += "".join(_point(p, x_axis, y_axis) for p in points)
    body += "".join(_name(p, x_axis, y_axis, shifts[id(p)]) for p in points if id(p) in shifts)
    marks = [
        Mark(x_axis.place(p.x), (y_axis.place(p.y),), "\n".join((p.name, *p.tip))) for p in points
    ]
    legend = "".join(
        f'<li><svg class="key c{i % COLOURS}"><path class="dot" d="{_SHAPES[i % COLOURS]}"/></svg>'
        f"{esc(group)}</li>"
        for i, group in enumerate(groups)
    )
    legend += "".join(_key(item) for item in lines)
    rows = tuple((p.name, shows[0](p.x), shows[1](p.y), "; ".join(p.tip)) for p in points)
    table = Table(labels.title, ("name", labels.x, labels.y, "more"), rows)
    return _figure(labels, x_axis, y_axis, body, marks, legend, table)


def _figure(
    labels: Labels,
    x_axis: Axis,
    y_axis: Axis,
    body: str,
    marks: Sequence[Mark],
    legend: str,
    table: Table,
) -> str:
    key = esc(labels.key)
    content = script_json([[m.x, m.y, m.tip] for m in marks])
    words = f'aria-labelledby="{key}-title" aria-describedby="{key}-text"'
    return f"""<figure class="chart" id="{key}" role="group" aria-labelledby="{key}-title">
<figcaption><h4 id="{key}-title">{esc(labels.title)}</h4><p id="{key}-text">{esc(labels.text)}</p>
</figcaption><ul class="legend">{legend}</ul>
<div><p class="axis">{esc(labels.y)}</p><div class="plot" tabindex="0" role="img" {words}>
<svg aria-hidden="true">{_grid(x_axis, y_axis)}{body}<line class="cursor" y2="100%"/></svg>
<div class="tip"></div></div>
<p class="axis x">{esc(labels.x)}</p><p class="say" aria-live="polite"></p></div>
{fold("As a table", table_html(table))}
<script type="application/json">{content}</script></figure>
"""


def _grid(x_axis: Axis, y_axis: Axis) -> str:
    across = "".join(
        f'<line class="grid" x2="100%" y1="{100 - y:.3f}%" y2="{100 - y:.3f}%"/>'
        f'<text x="-8" y="{100 - y:.3f}%" dy="4" text-anchor="end">{esc(y_axis.show(tick))}</text>'
        for tick in y_axis.ticks
        for y in [y_axis.place(tick)]
    )
    along = "".join(
        f'<text x="{x_axis.place(tick):.3f}%" y="100%" dy="18" text-anchor="middle">'
        f"{esc(x_axis.show(tick))}</text>"
        for tick in x_axis.ticks
    )
    return across + along


def _stretched(body: str) -> str:
    return f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none">{body}</svg>'


def _path(item: Series, x_axis: Axis, y_axis: Axis) -> str:
    places = (
        f"{x_axis.place(x) * 10:.1f},{1000 - y_axis.place(y) * 10:.1f}" for x, y in item.points
    )
    way = "L".join(places)
    dot = "h0" if len(item.points) == 1 else ""
    return f'<path class="line c{item.colour} {item.style}" d="M{way}{dot}"/>'


def _shifts(named: Sequence[Point], x_axis: Axis, y_axis: Axis) -> dict[int, int]:
    """Returns by how many pixels each point's name is moved down to stand clear of the others.

    Names are taken to be as wide as they are in a small chart; one that finds no room stays.
    """
    taken: list[tuple[float, float, float]] = []  # left and right end, height, all in pixels
    shifts: dict[int, int] = {}
    for point in named:
        x = x_axis.place(point.x) / 100 * _PLOT[0]
        y = (1 - y_axis.place(point.y) / 100) * _PLOT[1]
        width = 12 + _LETTER * len(point.name)
        left, right = (x - width, x) if _leftwards(point, x_axis) else (x, x + width)
        beside = [h for start, end, h in taken if left < end and start < right]
        free = (s for s in _SHIFTS if all(abs(y + s - h) >= _LINE for h in beside))
        shifts[id(point)] = next(free, 0)
        taken.append((left, right, y + shifts[id(point)]))
    return shifts


def _leftwards(point: Point, x_axis: Axis) -> bool:
    return x_axis.place(point.x) > 60


def _point(point: Point, x_axis: Axis, y_axis: Axis) -> str:
    x, y = x_axis.place(point.x), 100 - y_axis.place(point.y)
    colour = point.colour % COLOURS
    bar = ""
    if point.low is not None and point.high is not None:
        ends = (100 - y_axis.place(point.low), 100 - y_axis.place(point.high))
        bar = (
            f'<line class="interval c{colour}" x1="{x}%" x2="{x}%" y1="{ends[0]:.3f}%"'
            f' y2="{ends[1]:.3f}%"/>'
        )
    shape = f'<path class="dot" d="{_SHAPES[colour]}"/>'
    return f'{bar}<svg class="point c{colour}" x="{x}%" y="{y:.3f}%">{shape}</svg>'


def _name(point: Point, x_axis: Axis, y_axis: Axis, shift: int) -> str:
    """Returns a point's name, beside it and so many pixels further down."""
    x, y = x_axis.place(point.x), 100 - y_axis.place(point.y)
    dx, anchor = (-10, "end") if _leftwards(point, x_axis) else (10, "start")
    place = f'x="{dx}" y="{4 + shift}" text-anchor="{anchor}"'
    return f'<svg x="{x}%" y="{y:.3f}%"><text class="name" {place}>{esc(point.name)}</text></svg>'


def _key(item: Series) -> str:
    line = f'<line class="line c{item.colour} {item.style}" x1="-8" x2="8"/>'
    return f'<li><svg class="key">{line}</svg>{esc(item.name)}</li>'


def _by_x(series: Sequence[Series]) -> dict[float, list[tuple[str, float]]]:
    """Returns x -> what every series has there."""
    by_x: dict[float, list[tuple[str, float]]] = {}
    for item in series:
        for x, y in item.points:
            by_x.setdefault(x, []).append((item.name, y))
    return dict(sorted(by_x.items()))


def _tip(title: str, x: float, ys: Sequence[tuple[str, float]]) -> str:
    return "\n".join([f"{title} {number(x)}", *(f"{name} {y:.6g}" for name, y in ys)])


def _table_row(x: float, ys: Sequence[tuple[str, float]], names: Sequence[str]) -> tuple[str, ...]:
    values = dict(ys)
    return (number(x), *(f"{values[n]:.6g}" if n in values else "" for n in names))


def finite(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Returns the points that can be drawn: a training that diverged reports NaN."""
    return tuple((x, y) for x, y in points if math.isfinite(x) and math.isfinite(y))
