"""A bilinear form on a grid of plans as a sum of tables over one or two groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dmcp_deploy.bench.tables.fit import Array
from dmcp_deploy.bench.tables.model import IntArray
from dmcp_deploy.search.costs.protocol import Term
from dmcp_deploy.search.costs.rounded import RoundedForm, RoundedSum

#: A function of the plan that is a sum of functions of one group each: group -> its values at
#: the units on offer; under None a number.
Parts = dict[int | None, Array]


def pairwise_terms(form: RoundedForm, axes: Sequence[np.ndarray]) -> list[Term]:
    """Returns tables that add up to the form on a grid of plans.

    They do exactly where of the groups of each sum at most one is offered widths that leave
    different remainders by the rounding. Elsewhere what a sum lacks to the next multiple is taken
    as its mean over the grid and what each group moves that by.

    Args:
        form: The form.
        axes: The units on offer of each group, ascending.
    """
    parts = [_parts(side, axes) for side in form.sides]
    tables: dict[tuple[int, ...], Array] = {(): np.array(form.constant)}
    for side, ms in zip(parts, form.linear.tolist(), strict=True):
        for group, values in side.items():
            _add(tables, (() if group is None else (group,)), ms * values)
    for (s, t), ms in form.products.items():
        for first, values in parts[s].items():
            for second, others in parts[t].items():
                _add(tables, *_product(first, ms * values, second, others))
    return [Term(groups, tables[groups]) for groups in sorted(tables)]


def _parts(side: RoundedSum, axes: Sequence[np.ndarray]) -> Parts:
    channels = {group: per_unit * axes[group] for group, per_unit in side.per_unit}
    residues = {group: added % side.rounding for group, added in channels.items()}
    fixed = {group: int(one[0]) for group, one in residues.items() if (one == one[0]).all()}
    moving = {group: one for group, one in residues.items() if group not in fixed}
    every = np.arange(side.rounding)
    lacking = -(side.fixed + sum(fixed.values()) + every) % side.rounding
    given = {
        group: _mean_lacking(lacking, [moving[other] for other in moving if other != group])
        for group in moving
    }
    mean = float(_mean_lacking(lacking, list(moving.values()))[0])
    parts: Parts = {group: added.astype(np.float64) for group, added in channels.items()}
    for group, at in given.items():
        parts[group] += at[moving[group]] - mean
    return {None: np.array(side.fixed + mean), **parts}


def _mean_lacking(lacking: IntArray, residues: Sequence[IntArray]) -> Array:
    """Returns what a sum lacks on average when some groups are added to a sum q, for every q."""
    size = len(lacking)
    mean = lacking.astype(np.float64)
    for one in residues:
        chances = np.bincount(one, minlength=size) / len(one)
        mean = mean[(np.arange(size)[:, None] + np.arange(size)) % size] @ chances
    return mean


def _product(
    first: int | None, values: Array, second: int | None, others: Array
) -> tuple[tuple[int, ...], Array]:
    """Returns the product of functions of one group each: its groups, ascending, and values."""
    if first is None or second is None or first == second:
        group = second if first is None else first
        return (() if group is None else (group,)), values * others
    if first < second:
        return (first, second), np.outer(values, others)
    return (second, first), np.outer(others, values)


def _add(tables: dict[tuple[int, ...], Array], groups: tuple[int, ...], values: Array) -> None:
    tables[groups] = tables[groups] + values if groups in tables else values
