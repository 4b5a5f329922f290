"""Plans that a latency table is corrected by: spread over what networks take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dmcp_deploy.bench.tables.model import LatencyModel
from dmcp_deploy.bench.tables.probes import ProbedGroup, Widths

#: The least and the largest share of the full network's latency that plans are drawn for; no
#: less than so much more than the narrowest network's.
_SHARES, _ABOVE_LEAST = (0.2, 0.95), 1.1
#: No group keeps less than this share of its channels, if its widths allow.
_LEAST = 0.1
#: Half the range of a group's share of channels around the others', as a share of all.
_APART = 0.45
#: Plans around a budget lie within this share of it.
_NEAR = 0.1
_HALVINGS = 12
#: Of four plans this one has widths off the edges; it is never one of those near a budget.
_OFF_EDGE = 3


def draw_plans(
    model: LatencyModel, count: int, *, seed: int = 0, near: float | None = None
) -> list[Widths]:
    """Returns plans whose predicted latencies lie evenly spread, each group's widths apart.

    Widths are right edges of the model's steps in three plans of four, and multiples of the
    model's `align` in the fourth.

    Args:
        model: What networks take.
        count: How many plans.
        seed: Of the draw.
        near: Share of the full network's latency near which half of the plans lie.
    """
    rng = np.random.default_rng(seed)
    edges = model.edges()
    aligned = {name: _multiples(group, model.align) for name, group in model.groups.items()}
    low = _share(model, _widths_at(aligned, np.zeros(len(aligned)))) * _ABOVE_LEAST
    shares = rng.permutation(np.linspace(max(low, _SHARES[0]), max(low, _SHARES[1]), count))
    if near is not None:
        shares[::2] = near * (1 + _NEAR * np.linspace(-1, 1, len(shares[::2])))
    # Latin hypercube: each group sees all of its range evenly, independently of the others.
    apart = np.stack([rng.permutation(np.linspace(-1, 1, count)) for _ in edges], axis=1)
    return [
        _fit(
            model,
            aligned if number % 4 == _OFF_EDGE else edges,
            _APART * apart[number],
            float(shares[number]),
        )
        for number in range(count)
    ]


def _multiples(group: ProbedGroup, align: int) -> tuple[int, ...]:
    step = int(np.lcm(align, group.unit)) if group.size > align else group.unit
    return tuple(dict.fromkeys((*range(step, group.size, step), group.size)))


def _fit(
    model: LatencyModel, offered: Mapping[str, tuple[int, ...]], apart: np.ndarray, share: float
) -> Widths:
    """Returns the widths around one level whose predicted latency is the nearest to a share."""
    low, high = -_APART, 1 + _APART
    for _ in range(_HALVINGS):
        level = (low + high) / 2
        widths = _widths_at(offered, level + apart)
        if _share(model, widths) > share:
            high = level
        else:
            low = level
    return widths


def _share(model: LatencyModel, widths: Widths) -> float:
    return float(model.ms(*model.channels(widths))) / model.full_ms


def _widths_at(offered: Mapping[str, tuple[int, ...]], shares: np.ndarray) -> Widths:
    return {
        name: min(widths, key=lambda width: abs(width - max(share, _LEAST) * widths[-1]))
        for (name, widths), share in zip(offered.items(), shares, strict=True)
    }
