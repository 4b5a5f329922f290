"""A latency model corrected by what whole plans took: ridge towards the fit of single layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dmcp_deploy.bench.tables.fit import Array

#: How far single layers and their terms may be off, as shares of their time: each is tried.
STRENGTHS = (0.0, 0.03, 0.1, 0.3)
#: How far the sum of all layers may be off, and what lies outside of them, as a share of all.
_SLOPE, _OUTSIDE = 0.3, 0.1
#: What a measured plan may be off, with what no sum of layers can say.
_NOISE = 0.015
#: A plan that is off by more than so many usual errors counts less.
_USUAL_ERRORS = 2.0
_ROUNDS = 4


@dataclass(frozen=True)
class Terms:
    """The terms that a network's latency is the sum of, and what is believed of them.

    Attributes:
        believed_ms: What each takes in the full network, shape [terms]; the last lies outside
            of all layers.
        layers_ms: What the layer takes in the full network that a term is of, shape [terms].
        alike: Keys of what terms have in common, each of shape [terms]: terms of one key may be
            off together.
    """

    believed_ms: Array
    layers_ms: Array
    alike: Sequence[npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Corrected:
    """Terms as whole plans correct them.

    Attributes:
        terms_ms: What each takes in the full network; none is below zero.
        errors: Relative error of each plan, predicted from the others.
    """

    terms_ms: Array
    errors: Array


def correct(terms: Terms, shares: Array, measured_ms: Array) -> Corrected:
    """Returns the terms that whole plans correct, by ridge regression in relative errors.

    The sum of all terms may be off by much, those of like layers together by less, and each layer
    and term by as much again. How much, is chosen by leaving out one plan after the other.

    Args:
        terms: What is believed.
        shares: What each plan has of each term, the full network's being 1, shape [plans, terms].
        measured_ms: What the plans took, shape [plans].
    """
    rows = shares / measured_ms[:, None]
    tried = [_solve(terms, rows, _covariance(terms, strength)) for strength in STRENGTHS]
    return min(tried, key=lambda corrected: float(np.abs(corrected.errors).mean()))


def _covariance(terms: Terms, strength: float) -> Array:
    """Returns how terms may be off, alone and together, in square milliseconds [terms, terms]."""
    together = np.outer(terms.believed_ms, terms.believed_ms)
    covariance = _SLOPE**2 * together
    for keys in terms.alike:
        covariance += strength**2 * together * (keys[:, None] == keys)
    covariance[-1, :] = covariance[:, -1] = 0.0
    alone = (strength * terms.layers_ms) ** 2
    alone[-1] = (_OUTSIDE * terms.believed_ms.sum()) ** 2
    return np.asarray(covariance + np.diag(alone))


def _solve(terms: Terms, rows: Array, covariance: Array) -> Corrected:
    """Returns the likeliest terms; those that come out below zero are held at zero."""
    believed, covariance = terms.believed_ms.copy(), covariance.copy()
    noise = np.full(len(rows), _NOISE**2)
    while True:
        for _ in range(_ROUNDS):
            spread = rows @ covariance @ rows.T + np.diag(noise)
            inverse = np.linalg.inv(spread)
            pull = inverse @ (1 - rows @ believed)
            errors = -pull / np.diag(inverse)
            usual = _USUAL_ERRORS * 1.5 * max(float(np.median(np.abs(errors))), 1e-9)
            noise = _NOISE**2 * np.maximum(1.0, np.abs(errors) / usual) ** 2
        values = believed + covariance @ rows.T @ pull
        below = values < 0
        if not (below & (covariance.diagonal() > 0)).any():
            return Corrected(np.maximum(values, 0.0), errors)
        believed[below] = covariance[below] = covariance[:, below] = 0.0
